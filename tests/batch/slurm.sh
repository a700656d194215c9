#!/usr/bin/env bash
# A real Slurm of several virtual nodes on this machine, on the loopback address alone.
#
#   slurm.sh packages                         install Debian's packages, as root
#   slurm.sh up FOLDER [NODES] [CPUS] [PORT]  start it, or what is missing of it
#   slurm.sh down FOLDER                      end it, its jobs and their processes
#
# All state is in FOLDER, whose path has to be short: it holds a socket.  Afterwards commands find
# it by SLURM_CONF=FOLDER/slurm.conf.  It takes NODES + 1 ports from PORT on.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

packages() {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        slurmctld slurmd slurm-client munge
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

configure() { # FOLDER NODES CPUS PORT
    local memory
    memory=$(awk -v n="$2" '/MemTotal/ {m = int($2 / 1024 / n * 0.9); print (m > 4000 ? 4000 : m)}' /proc/meminfo)
    cat >"$1/slurm.conf" <<CONF
ClusterName=toy$4
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$4
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CryptoType=crypto/munge
# A job that is put back into the queue waits as long as its credential lives.
AuthInfo=socket=$1/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool/%n
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/slurmd.%n.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=1,sched_min_interval=500000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc=$1/jobs.txt
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
OverTimeLimit=0
MinJobAge=300
InactiveLimit=0
SlurmdTimeout=20
SlurmctldTimeout=20
TCPTimeout=5
MessageTimeout=10
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
# Nodes may promise more than the machine has.
SlurmdParameters=config_overrides
NodeName=n[1-$2] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[$(($4 + 1))-$(($4 + $2))] CPUs=$3 Boards=1 SocketsPerBoard=1 CoresPerSocket=$3 ThreadsPerCore=1 RealMemory=$memory Gres=gpu:toy:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=24:00:00 DefaultTime=00:10:00 State=UP PriorityTier=1 OverSubscribe=NO GraceTime=5
PartitionName=urgent Nodes=ALL MaxTime=24:00:00 State=UP PriorityTier=10 PreemptMode=OFF OverSubscribe=NO
CONF
    # Devices that are everywhere play the graphics processors.
    cat >"$1/gres.conf" <<CONF
AutoDetect=off
NodeName=n[1-$2] Name=gpu Type=toy File=/dev/zero
NodeName=n[1-$2] Name=gpu Type=toy File=/dev/full
CONF
    # 22.05 asks for a plugin even where nothing uses cgroups.
    echo "CgroupPlugin=cgroup/v1" >"$1/cgroup.conf"
    echo "$2" >"$1/nodes"
}

start_munge() { # FOLDER
    runs "$1/munged.pid" && return
    rm -f "$1"/munge.socket*
    [ -s "$1/munge.key" ] || (umask 077 && head -c 128 /dev/urandom >"$1/munge.key")
    # Forced: it wants a folder that everybody may enter.
    munged --force --key-file="$1/munge.key" --socket="$1/munge.socket" --pid-file="$1/munged.pid" \
        --seed-file="$1/munge.seed" --log-file="$1/munged.log" 2>>"$1/munged.log"
}

all_up() { # NODES
    [ "$(sinfo -h -N -p main -o %T 2>/dev/null | grep -cE '^(idle|mixed|allocated|completing)$')" -ge "$1" ]
}

up() { # FOLDER [NODES] [CPUS] [PORT]
    mkdir -p "$1"
    local folder nodes node
    folder=$(realpath "$1")
    mkdir -p "$folder/state" "$folder/spool"
    [ -s "$folder/slurm.conf" ] || configure "$folder" "${2:-4}" "${3:-2}" "${4:-16817}"
    nodes=$(cat "$folder/nodes")
    export SLURM_CONF="$folder/slurm.conf"
    start_munge "$folder"
    runs "$folder/slurmctld.pid" || slurmctld -f "$SLURM_CONF"
    for node in $(seq -f n%g "$nodes"); do
        mkdir -p "$folder/spool/$node"
        runs "$folder/slurmd.$node.pid" || slurmd -N "$node" -f "$SLURM_CONF"
    done
    wait_until 60 all_up "$nodes" || {
        sinfo -N -l >&2
        tail -n 5 "$folder"/*.log >&2
        return 1
    }
    echo "export SLURM_CONF=$SLURM_CONF"
}

# Processes of its jobs, wherever they have moved to: they inherit the name of the cluster.
of_jobs() { # FOLDER
    local name file pid
    name=$(sed -n 's/^ClusterName=//p' "$1/slurm.conf")
    for file in $(grep -slzxF "SLURM_CLUSTER_NAME=$name" /proc/[0-9]*/environ); do
        pid=${file//[!0-9]/}
        ! alive "$pid" || echo "$pid"
    done
}

no_jobs() { [ -z "$(squeue -h -t PD,R,CG,S,CF 2>/dev/null)" ]; }

stop() { # PID FILE
    if runs "$1"; then
        local pid
        pid=$(cat "$1")
        kill "$pid" 2>/dev/null || true
        wait_until 5 gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
    fi
    rm -f "$1"
}
gone() { ! alive "$1"; }

down() { # FOLDER
    local folder file
    [ -s "$1/slurm.conf" ] || return 0
    folder=$(realpath "$1")
    export SLURM_CONF="$folder/slurm.conf"
    if runs "$folder/slurmctld.pid"; then
        squeue -h -o %A 2>/dev/null | xargs -r scancel -s KILL --full 2>/dev/null || true
        squeue -h -o %A 2>/dev/null | xargs -r scancel 2>/dev/null || true
        wait_until 3 no_jobs || true
    fi
    for file in "$folder"/slurmd.*.pid; do stop "$file"; done
    stop "$folder/slurmctld.pid"
    of_jobs "$folder" | xargs -r kill -KILL 2>/dev/null || true
    # The parents of jobs whose node was killed, too.
    pgrep -f -- "^slurm[a-z]* .*$folder/slurm.conf" | xargs -r kill -KILL 2>/dev/null || true
    stop "$folder/munged.pid"
}

case "${1:-}" in
packages) packages ;;
up | down)
    verb=$1
    shift
    : "${1:?a folder is missing: slurm.sh $verb FOLDER}"
    "$verb" "$@"
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
