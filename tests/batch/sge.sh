#!/usr/bin/env bash
# A real Grid Engine of one host, as root, in namespaces of its own.
#
#   sge.sh packages              install Debian's packages
#   sge.sh up FOLDER [SLOTS]     start it, or what is missing of it
#   sge.sh exec FOLDER COMMAND   run a command where it is: qsub, a driver of jobs
#   sge.sh down FOLDER           end it and every process in its network
#
# All state is in FOLDER.  Its daemons listen on every address: their network is a private one with
# nothing but a loopback.  There the folders of Debian's packages are covered by those of FOLDER.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin" SGE_ROOT=/var/lib/gridengine SGE_CELL=default

readonly HOST=toygrid  # the name localhost is refused

packages() {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        gridengine-master gridengine-exec gridengine-client iproute2
}

# A process that nobody reaps still has its number: it counts as gone.
alive() { [[ "$(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null)" == [!Z] ]]; }
runs() { [ -s "$1" ] && alive "$(cat "$1")"; }

wait_until() { # SECONDS COMMAND...
    local tries=$((10 * $1))
    shift
    until "$@"; do
        ((tries--)) || return 1
        sleep 0.1
    done
}

inside() { # FOLDER COMMAND...
    local holder
    holder=$(cat "$1/holder.pid")
    shift
    nsenter --target "$holder" --net --uts --mount -- env -C "$PWD" "$@"
}
asked() { inside "$@" >/dev/null 2>&1; }

as_admin() { setpriv --reuid=sgeadmin --regid=sgeadmin --clear-groups "$@"; }

hold() { # FOLDER, within new namespaces: it is what keeps them
    ip link set lo up
    hostname "$HOST"
    mount --bind "$1/hosts" /etc/hosts
    mount --bind "$1/cell" "$SGE_ROOT/$SGE_CELL"
    mount --bind "$1/spool" /var/spool/gridengine
    as_admin /usr/share/gridengine/scripts/init_cluster \
        "$SGE_ROOT" "$SGE_CELL" /var/spool/gridengine/spooldb sgeadmin >"$1/init.log" 2>&1
    touch "$1/held"
    exec sleep infinity
}

make_host() { # FOLDER
    rm -rf "$1"/{cell,spool,held}
    mkdir -p "$1"/cell/common "$1"/spool/{qmaster/job_scripts,spooldb,execd} /run/gridengine
    cp "$SGE_ROOT/$SGE_CELL/common/bootstrap" "$1/cell/common/" 2>/dev/null ||
        cp /usr/share/gridengine/default-bootstrap "$1/cell/common/bootstrap"
    echo "$HOST" >"$1/cell/common/act_qmaster"
    echo "$HOST localhost" >"$1/cell/common/host_aliases"
    echo "127.0.0.1 $HOST localhost" >"$1/hosts"
    chown -R sgeadmin: "$1/cell" "$1/spool" /run/gridengine
    setsid unshare --net --uts --mount -- "$0" hold "$1" </dev/null >"$1/hold.log" 2>&1 &
    echo $! >"$1/holder.pid"
    wait_until 20 test -e "$1/held"
}

set_up() { # FOLDER SLOTS
    # Users below 1000, root among them, are refused by Debian's settings.
    # -Mconf takes the name of the file for that of the configuration.
    inside "$1" qconf -sconf global | sed -e 's/^\(min_[ug]id\) .*/\1 0/' -e 's/^load_report_time .*/load_report_time 00:00:05/' \
        -e 's/^reporting_params .*/reporting_params accounting=true reporting=false flush_time=00:00:01 joblog=false sharelog=00:00:00/' \
        >"$1/global"
    inside "$1" qconf -Mconf "$1/global"
    inside "$1" qconf -ssconf | sed -e 's/^schedule_interval .*/schedule_interval 0:0:1/' \
        -e 's/^\(flush_[a-z]*_sec\) .*/\1 1/' >"$1/scheduler.new"
    inside "$1" qconf -Msconf "$1/scheduler.new"
    inside "$1" qconf -ah "$HOST" >/dev/null 2>&1 || true  # it may know itself already
    inside "$1" qconf -as "$HOST" >/dev/null 2>&1 || true
    printf 'group_name @allhosts\nhostlist %s\n' "$HOST" >"$1/hosts.new"
    cat >"$1/smp.new" <<'PE'
pe_name            smp
slots              999
user_lists         NONE
xuser_lists        NONE
start_proc_args    NONE
stop_proc_args     NONE
allocation_rule    $pe_slots
control_slaves     FALSE
job_is_first_task  TRUE
urgency_slots      min
accounting_summary FALSE
qsort_args         NONE
PE
    inside "$1" qconf -sq | sed -e 's/^qname .*/qname main.q/' -e 's/^hostlist .*/hostlist @allhosts/' \
        -e 's/^load_thresholds .*/load_thresholds NONE/' -e "s/^slots .*/slots $2/" \
        -e 's/^pe_list .*/pe_list make smp/' -e 's#^shell .*#shell /bin/bash#' \
        -e 's/^shell_start_mode .*/shell_start_mode unix_behavior/' \
        -e 's/^notify .*/notify 00:00:05/' >"$1/queue.new"
    inside "$1" qconf -Ahgrp "$1/hosts.new"
    inside "$1" qconf -Ap "$1/smp.new"
    inside "$1" qconf -Aq "$1/queue.new"
}

# Its queue has no state, such as u for unknown, au, or E for error.
all_up() { inside "$1" qstat -f 2>/dev/null | awk '$1 ~ /^main.q@/ {n += NF == 5} END {exit !n}'; }

up() { # FOLDER [SLOTS]
    mkdir -p "$1"
    local folder spool
    [ "$(id -u)" = 0 ] || {
        echo "sge.sh up: only root can make its namespaces and run its daemons" >&2
        return 1
    }
    folder=$(realpath "$1")
    spool=$folder/spool
    runs "$folder/holder.pid" || make_host "$folder"
    runs "$spool/qmaster/qmaster.pid" || inside "$folder" setsid sge_qmaster >"$folder/qmaster.log" 2>&1
    wait_until 20 asked "$folder" qconf -sh
    asked "$folder" qconf -sq main.q || set_up "$folder" "${2:-4}" >"$folder/set-up.log" 2>&1
    runs "$spool/execd/$HOST/execd.pid" || inside "$folder" setsid sge_execd >"$folder/execd.log" 2>&1
    wait_until 60 all_up "$folder" || {
        tail -n 5 "$folder"/*.log "$spool"/qmaster/messages >&2
        return 1
    }
}

in_network() { # NAMESPACE
    local link pid
    for link in /proc/[0-9]*/ns/net; do
        pid=${link//[!0-9]/}
        [ "$(readlink "$link" 2>/dev/null)" != "$1" ] || ! alive "$pid" || echo "$pid"
    done
}
empty() { [ -z "$(in_network "$1")" ]; }
kill_all() { # NAMESPACE, until nothing is started there any more
    in_network "$1" | xargs -r kill -KILL 2>/dev/null || true
    empty "$1"
}

down() { # FOLDER
    runs "$1/holder.pid" || return 0
    local network
    network=$(readlink "/proc/$(cat "$1/holder.pid")/ns/net")
    [ "$network" != "$(readlink /proc/self/ns/net)" ] || return 1
    wait_until 10 kill_all "$network"
    rm -f "$1/holder.pid"
}

case "${1:-}" in
packages) packages ;;
up | down | hold)
    verb=$1
    shift
    : "${1:?a folder is missing: sge.sh $verb FOLDER}"
    "$verb" "$@"
    ;;
exec)
    shift
    : "${2:?a folder or a command is missing: sge.sh exec FOLDER COMMAND}"
    holder=$(cat "$1/holder.pid")
    shift
    exec nsenter --target "$holder" --net --uts --mount -- env -C "$PWD" "$@"
    ;;
*)
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
