"""The line for machines without Portside: pasted into a shell, it does what ``portside trust`` does, with openssl and coreutils alone."""

from __future__ import annotations

from auth.fingerprint import Fingerprint
from auth.hosts import HostPort

_SCRIPT = (
    # $h the server as images name it, $f the fingerprint in hex; an address without a port is on 443.
    "h=$1 f=$2 s= i=0;case ${h##*]} in *:*)k=$h;;*)k=$h:443;;esac;"
    'command -v openssl >/dev/null||{ echo "Nothing written: this needs openssl." >&2;exit 1;};'
    'c=$(timeout 20 openssl s_client -showcerts -connect "$k" </dev/null 2>/dev/null);'
    # Each certificate that was shown, read by openssl: $p is what it makes of it, $g the fingerprint of that.
    "while [ $i -lt 8 ];do i=$((i+1));"
    'p=$(printf "%s\\n" "$c"|awk "/BEGIN CERT/{n++}n==$i"|openssl x509 2>/dev/null)||break;'
    'g=$(printf "%s\\n" "$p"|openssl x509 -outform DER|sha256sum);g=${g%% *};'
    '[ "$g" = "$f" ]&&break;s="$s SHA256:$g";p=;done;'
    'if [ -z "$p" ];then if [ -z "$s" ];then echo "Nothing written: $h shows no certificate. Is the hub running there, with TLS?";'
    'else echo "Nothing written: $h shows$s, not SHA256:$f. A wrong server may be answering.";fi >&2;exit 1;fi;'
    # Beside its place first, then moved there: it is there whole or not at all.
    'r=;[ "$(id -u)" = 0 ]||r=sudo;'
    'w(){ $r install -d -m 755 "$1"&&printf "%s\\n" "$p"|$r install -m 644 /dev/stdin "$1/.$2.new"'
    '&&$r mv -f "$1/.$2.new" "$1/$2"&&echo "Wrote $1/$2"||{ $r rm -f "$1/.$2.new";exit 1;};};'
    'w "/etc/docker/certs.d/$h" ca.crt;w "/etc/containers/certs.d/$h" ca.crt;'
    'if [ "$3" = system ];then PATH=$PATH:/usr/sbin:/sbin d=/etc/pki/ca-trust/source/anchors u=update-ca-trust;'
    "[ -d $d ]||d=/usr/local/share/ca-certificates u=update-ca-certificates;"
    'w $d "portside-$(printf %s "$h"|tr -c a-z0-9. -).crt";$r $u||exit 1;fi;'
    'echo "$h is trusted. Now: docker login $h"'
)
"""POSIX sh, without an apostrophe, so that any shell passes it on as it is. What differs comes as arguments."""


def trust_line(server: HostPort, fingerprint: Fingerprint) -> str:
    """One line for any POSIX shell. The word ``system`` after it writes to the system's store, too.

    Both arguments are values that hold nothing that a shell reads: letters, digits and ``.:-[]``, the latter in apostrophes.
    """
    return f"sh -c '{_SCRIPT}' trust '{server}' {fingerprint.hex}"


def how_to_trust(server: HostPort, fingerprint: Fingerprint) -> str:
    """What to type on each client machine, for a person; several lines."""
    return (
        "On each client, to trust this hub:\n"
        f"  portside trust {server} --fingerprint {fingerprint}\n"
        "Where Portside is not installed, this line does the same (the word  system  after it: for every program there):\n"
        f"  {trust_line(server, fingerprint)}"
    )
