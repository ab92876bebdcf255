"""The system call filter: ``seccomp.json`` evaluated for a machine and a set of capabilities (OCI runtime-spec config-linux.md, "Seccomp").

To the effect of Docker's default profile. The data file has

- ``allow``: names that every container may call, in lines;
- ``allow_with_capability``: names that a capability opens; the kernel checks the capability as well;
- ``allow_on``: names that exist on one architecture;
- ``personality``: the only arguments that personality(2) takes;
- ``socket_families``: what socket(2) may open: not AF_VSOCK (40), which leads to the hypervisor, nor AF_ALG (38) and dead protocols;
- ``namespaces_mask``: the flags of clone(2) that make namespaces; without CAP_SYS_ADMIN they are refused. The flags of clone3(2) lie in
  memory, where a filter cannot look: it does not exist (ENOSYS), and C libraries fall back to clone.

Everything else is EPERM.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Any

_EPERM, _ENOSYS = 1, 38
_CLONE_FLAGS_ARGUMENT = {"s390x": 1}
"""s390 has the first two arguments of clone(2) the other way round."""


def seccomp_filter(architecture: str, capabilities: Collection[str]) -> dict[str, Any]:
    """The ``linux.seccomp`` object of an OCI runtime spec. ``architecture`` as in image configs; capabilities with ``CAP_``.

    An architecture that the profile does not know gets the native one's names, which libseccomp finds by itself.
    """
    profile = _profile()
    names = set(" ".join(profile["allow"]).split())
    names.update(profile["allow_on"].get(architecture, ()))
    for capability, gated in profile["allow_with_capability"].items():
        if capability in capabilities:
            names.update(gated)
    rules = [_allow(sorted(names))]
    rules += [_allow(["personality"], _argument(0, value, "EQ")) for value in profile["personality"]]
    families = profile["socket_families"]
    rules.append(_allow(["socket"], _argument(0, families["below"], "LT")))
    rules += [_allow(["socket"], _argument(0, value, "EQ")) for value in families["also"]]
    if "CAP_SYS_ADMIN" not in capabilities:
        index = _CLONE_FLAGS_ARGUMENT.get(architecture, 0)
        mask = _argument(index, profile["namespaces_mask"], "MASKED_EQ") | {"valueTwo": 0}
        rules.append(_allow(["clone"], mask))
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    out: dict[str, Any] = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": _EPERM, "syscalls": rules}
    if architecture in profile["architectures"]:
        out["architectures"] = [f"SCMP_ARCH_{name}" for name in profile["architectures"][architecture]]
    return out


@cache
def _profile() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(Path(__file__).with_name("seccomp.json").read_bytes())
    return value


def _allow(names: Iterable[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": list(names), "action": "SCMP_ACT_ALLOW"}
    if arguments:
        rule["args"] = list(arguments)
    return rule


def _argument(index: int, value: int, operator: str) -> dict[str, Any]:
    return {"index": index, "value": value, "op": f"SCMP_CMP_{operator}"}
