# shellcheck shell=bash
# What all scripts begin with: strict mode, the top directory, the settings, and a few functions.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
top=$PWD

export PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH:/usr/sbin:/sbin"
export PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$top/target}
# cargo-pgrx keeps here which PostgreSQL it builds for; apart from ~/.pgrx, which may serve other projects.
export PGRX_HOME=${PGRX_HOME:-$CARGO_TARGET_DIR/pgrx}
# shellcheck disable=SC2034
PGRX_VERSION=0.18.1
# shellcheck disable=SC2034
EXTENSION=pg_custodian

# Announces a step.
say() { printf '\n==> %s\n' "$*"; }

# Ends with a message.
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Runs a command as root.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo: $*"
    fi
}

# Whether commands can run as root without asking for a password.
can_be_root() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }

# The feature that stands for the server's major version, such as pg15.
pg_feature() {
    local version
    version=$("$PG_CONFIG" --version) || die "$PG_CONFIG does not run: run make setup"
    version=${version#PostgreSQL }
    echo "pg${version%%[!0-9]*}"
}
