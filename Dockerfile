# The hub alone: Debian's Python, what pip installed for it, and nothing to build with. The engine (portside run) is not for containers.
# Change both FROM lines together: the environment that the first makes is the second's.

FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
RUN python3 -m venv --without-pip /opt/portside && python3 -m venv /opt/pip
# What it depends on first: it is not installed again when only the hub's own code changed.
WORKDIR /src
COPY pyproject.toml ./
RUN /opt/pip/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > requirements.txt \
 && /opt/pip/bin/pip --python /opt/portside/bin/python install --no-cache-dir --only-binary :all: -r requirements.txt
# Of AWS's services the hub asks these: to store, and to be let in. The descriptions of the others are 25 MB.
RUN cd /opt/portside/lib/python3*/site-packages/botocore/data \
 && find . -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name 'sso*' -exec rm -r {} +
COPY . .
RUN /opt/pip/bin/pip --python /opt/portside/bin/python install --no-cache-dir --no-deps .

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
 && useradd --system --uid 5000 --no-create-home --home-dir /var/lib/portside portside \
 && install -d -o portside -g portside -m 700 /var/lib/portside
COPY --from=build /opt/portside /opt/portside
ENV PATH=/opt/portside/bin:/usr/bin:/bin PORTSIDE_ROOT=/var/lib/portside
USER portside
EXPOSE 5000
# It answers 503 when the database is away.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/healthz', timeout=4)"]
ENTRYPOINT ["portside"]
CMD ["serve"]
