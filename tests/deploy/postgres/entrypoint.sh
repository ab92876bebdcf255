#!/bin/bash
# What the official image does with the variables that docker-compose.yml sets: at the first start a user, its password and its database.
set -euo pipefail
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chown -R postgres:postgres "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?}"
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth-local=trust --auth-host=trust > /dev/null
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    pg_ctl --options="-c listen_addresses=''" --wait start > /dev/null
    createdb --username="$POSTGRES_USER" "$POSTGRES_USER"
    pg_ctl --mode=fast --wait stop > /dev/null
fi
exec "$@" -c listen_addresses='*'
