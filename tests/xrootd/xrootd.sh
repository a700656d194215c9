#!/usr/bin/env bash
# A real XRootD server, which only programs on this machine may ask.
#
#   xrootd.sh packages                       install Debian's package, as root
#   xrootd.sh data FOLDER PORT STORE         run what serves STORE/* as /store/*
#   xrootd.sh redirector FOLDER PORT OTHER   run what sends everybody to the server at port OTHER
#
# It runs until it is killed, or whoever started it has died; as nobody, if root starts it.  All that
# it writes is in FOLDER.
set -euo pipefail

packages() {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends xrootd-server
}

configure() { # FOLDER PORT
    mkdir -p "$1/admin"
    cat >"$1/xrootd.cfg" <<CONF
xrd.port $2
xrd.allow host localhost
xrd.allow host 127.0.0.1
all.export /store r/o
all.adminpath $1/admin
all.pidpath $1/admin
CONF
}

run() { # FOLDER
    local -a unprivileged=()
    if [ "$(id -u)" = 0 ]; then
        chown -R nobody "$1"
        unprivileged=(--reuid nobody --regid nogroup --clear-groups)
    fi
    cd "$1"
    exec setpriv --pdeathsig KILL "${unprivileged[@]}" xrootd -I v4 -c xrootd.cfg
}

data() { # FOLDER PORT STORE
    configure "$1" "$2"
    echo "oss.localroot $3" >>"$1/xrootd.cfg"
    run "$1"
}

redirector() { # FOLDER PORT OTHER
    configure "$1" "$2"
    printf 'xrootd.redirect 127.0.0.1:%s %s\n' "$3" all "$3" /store >>"$1/xrootd.cfg"
    run "$1"
}

case "${1:-}" in
packages) packages ;;
data | redirector)
    verb=$1
    shift
    : "${3:?something is missing: xrootd.sh $verb FOLDER PORT ...}"
    "$verb" "$@"
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
