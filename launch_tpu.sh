#!/usr/bin/env bash
# Trains on a Cloud TPU VM: creates it, watches over it through preemptions, brings the results
# home and deletes it. docs/tpu.md walks through it; launch/remote.sh is what runs on the workers.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: ./launch_tpu.sh COMMAND --name=NAME [OPTION...] [-- FLAG...]

commands
  run      create the VM if there is none, set it up, train on all its workers, follow the log,
           fetch the results, delete the VM; the same command again goes on where it was
  status   what exists, what it is doing, what is billed
  logs     follow the log of the first worker
  ssh      a shell on the first worker (or --worker=N)
  fetch    copy everything but the checkpoints from the workdir to runs/NAME
  stop     let the training save and end; the VM stays and is billed
  delete   delete the VM and its queued request; nothing to delete is fine

where and what
  --name=NAME        of the VM and of the run: lower case letters, digits, dashes
  --type=TYPE        v4-8, v5litepod-8, v5p-8, v6e-8, ...; above one host a pod slice [v5litepod-8]
  --zone=ZONE        [gcloud's compute/zone]
  --project=PROJECT  [gcloud's project]
  --runtime=VERSION  TPU software version [by type]
  --spot             cheaper, and can be taken away at any time
  --queued           ask through a queued resource, which waits for capacity

the run
  --config=FILE      as for cbam_flax.main, from this folder [configs/rsna.py]
  --workdir=PATH     gs://BUCKET/FOLDER, or a path on a disk that all workers share
  --data_dir=PATH    likewise
  -- FLAG...         everything after it goes to cbam_flax.main as it is

limits
  --keep             do not delete the VM at the end
  --max-hours=H      save, fetch and delete after so many hours [none]
  --max-tries=N      how often a VM is asked for before giving up [20]
  --price=P          per chip-hour, for the bill that is printed at the end
  --dry-run          print every command, run none

exit status: 0 finished, 1 the training failed, 2 something to mend, 3 no TPU to be had,
4 --max-hours was up, 75 stopped by `stop`, 130 Ctrl-C (the training goes on)

examples
  ./launch_tpu.sh run --name=rsna --type=v5litepod-8 --spot --zone=us-west4-a \
      --workdir=gs://my-bucket/rsna --data_dir=gs://my-bucket/data -- --config.seed=1
  ./launch_tpu.sh status --name=rsna --zone=us-west4-a
  ./launch_tpu.sh delete --name=rsna --zone=us-west4-a
TEXT
}

# How an attempt ends. 70 to 76 are remote.sh's.
readonly FAILED=70 INTERRUPTED=75 STOPPED=76 LOST=80 REFUSED=81 EXPIRED=82

readonly POLL=20 BACKOFF=30 BACKOFF_MAX=900 # seconds
readonly SSH_TRIES=5 SETTLE_POLLS=3
readonly REMOTE='bash cbam_flax/code/launch/remote.sh' # from the home folder of a worker

COMMAND='' NAME='' TYPE=v5litepod-8 ZONE='' PROJECT='' RUNTIME='' SPOT='' QUEUED='' WORKER=0
CONFIG=configs/rsna.py WORKDIR='' DATA_DIR='' KEEP='' MAX_HOURS='' MAX_TRIES=20 PRICE=''
DRY_RUN='' FLAGS=()

# What happens on the way.
CHIPS=0 HOSTS=1 COMMIT='' REACHED='' DELAY=$BACKOFF DEADLINE=999999999 BILLED=0 BILLED_FROM=''
LOG=/dev/null
# What an empty answer of Google's means; --dry-run changes them as it would have created things.
NO_VM=ABSENT NO_REQUEST=ABSENT

say() { echo "launch_tpu: $*" >&2; }
die() {
  echo "error: $*" >&2
  exit 2
}

main() {
  parse "$@"
  cd "$(dirname "${BASH_SOURCE[0]}")"
  exec 3>&1 # where --dry-run prints, also from within $(...)
  check_gcloud
  readonly ARGUMENTS=("$@") RESULTS=runs/$NAME STATE=runs/$NAME/launch
  [[ $DRY_RUN ]] || LOG=$STATE/log
  readonly WHERE=(--zone="$ZONE" --project="$PROJECT")
  # A VM that is taken away does not close its connections.
  readonly KEEPALIVE=(--ssh-flag='-o ServerAliveInterval=30' --ssh-flag='-o ServerAliveCountMax=4')
  case $COMMAND in
    run) run ;;
    status) status ;;
    logs) need_vm && remote "$WORKER" follow "$NAME" 1 ;;
    ssh) need_vm && tpu_vm ssh "$NAME" --worker="$WORKER" ;;
    fetch) fetch ;;
    stop) need_vm && remote all stop "$NAME" && left_running ;;
    delete) delete && left_running ;;
  esac
}

# --- before anything is created

parse() {
  local option value
  COMMAND=${1:---help}
  case $COMMAND in
    run | status | logs | ssh | fetch | stop | delete) shift ;;
    --help) usage && exit 0 ;;
    *) die "there is no command '$COMMAND'; see --help" ;;
  esac
  while (($# > 0)); do
    option=${1%%=*} value=${1#*=}
    option=${option#--}
    case $1 in
      --) shift && FLAGS=("$@") && break ;;
      --help) usage && exit 0 ;;
      --spot | --queued | --keep | --dry-run) value=1 ;;
      --name=* | --type=* | --zone=* | --project=* | --runtime=* | --worker=* | --config=* | \
        --workdir=* | --data_dir=* | --max-hours=* | --max-tries=* | --price=*) ;;
      *) die "there is no option '$1'; see --help (values are given as --name=VALUE)" ;;
    esac
    option=${option//-/_}
    printf -v "${option^^}" %s "$value" # --max-hours=3 sets MAX_HOURS
    shift
  done
  TYPE=${TYPE/#v5e-/v5litepod-} WORKDIR=${WORKDIR%/} DATA_DIR=${DATA_DIR%/}

  [[ $NAME =~ ^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$ ]] ||
    die "--name must be lower case letters, digits and dashes, at most 39, not '$NAME'"
  [[ $TYPE =~ ^(v4|v5litepod|v5p|v6e)-[1-9][0-9]*$ ]] ||
    die "--type must be like v4-8, v5litepod-8, v5p-8 or v6e-8, not '$TYPE'"
  [[ $MAX_TRIES =~ ^[1-9][0-9]*$ ]] || die "--max-tries must be a whole number, not '$MAX_TRIES'"
  [[ $MAX_HOURS$PRICE =~ ^[0-9.]*$ ]] || die "--max-hours and --price must be numbers"
  [[ $COMMAND != run && $COMMAND != fetch ]] || [[ $WORKDIR == gs://?* || $WORKDIR == /* ]] ||
    die "--workdir must be gs://BUCKET/FOLDER or a path on a shared disk, not '$WORKDIR'"

  # https://docs.cloud.google.com/tpu/docs/runtimes, and what the number in a type counts.
  local size=${TYPE#*-} image
  CHIPS=$size
  case $TYPE in
    v4-*) image=tpu-ubuntu2204-base CHIPS=$((size / 2)) ;; # TensorCores
    v5p-*) image=v2-alpha-tpuv5 CHIPS=$((size / 2)) ;;
    v5litepod-*) image=v2-alpha-tpuv5-lite ;;
    v6e-*) image=v2-alpha-tpuv6e ;;
  esac
  RUNTIME=${RUNTIME:-$image}
  ((size <= 8)) || HOSTS=$((CHIPS / 4)) # a slice of several hosts has 4 chips on each
}

check_gcloud() {
  [[ ! $DRY_RUN ]] || PROJECT=${PROJECT:-PROJECT} ZONE=${ZONE:-ZONE}
  [[ $DRY_RUN ]] || command -v gcloud >/dev/null ||
    die "gcloud is not installed: see https://cloud.google.com/sdk/docs/install"
  PROJECT=${PROJECT:-$(gcloud config get-value project 2>/dev/null || true)}
  ZONE=${ZONE:-$(gcloud config get-value compute/zone 2>/dev/null || true)}
  [[ $PROJECT ]] || die "no project: give --project, or 'gcloud config set project PROJECT'"
  [[ $ZONE ]] || die "no zone: give --zone, or 'gcloud config set compute/zone ZONE'"
}

preflight() {
  [[ -e ${CONFIG%%:*} ]] || die "there is no config ${CONFIG%%:*}; configs/ holds some"
  git rev-parse --quiet --verify HEAD >/dev/null ||
    die "this folder is no git checkout: what was run could not be recorded; clone it with git"
  do_ gcloud auth list --filter=status:ACTIVE --format='value(account)' | grep -q . ||
    [[ $DRY_RUN ]] || die "gcloud is not logged in: run 'gcloud auth login'"
  do_ gcloud compute tpus accelerator-types describe "$TYPE" "${WHERE[@]}" >/dev/null ||
    die "no $TYPE in $ZONE for project $PROJECT: is the zone right and the TPU API enabled?"
  if [[ $WORKDIR == gs://* ]]; then
    do_ gcloud storage ls "gs://$(cut -d/ -f3 <<<"$WORKDIR")" >/dev/null ||
      die "cannot read the bucket of $WORKDIR: does it exist, and may this account use it?"
  fi
}

# A shallow clone, so that the run can name its commit, with the working tree laid over it.
pack_code() {
  COMMIT=$(git describe --always --dirty --abbrev=40 --exclude='*')
  [[ $COMMIT != *-dirty ]] || say "note: uncommitted changes go along; the run records $COMMIT"
  if [[ $DRY_RUN ]]; then
    echo "# pack the working tree at $COMMIT into $STATE/code.tar.gz" >&3
    return
  fi
  local tree
  tree=$(mktemp -d)
  git clone --quiet --depth=1 "file://$PWD" "$tree/code"
  git ls-files -z --deleted | (cd "$tree/code" && xargs -0 rm -f)
  git ls-files -z --cached --others --exclude-standard |
    tar --null --files-from=- --ignore-failed-read -cf - 2>/dev/null | tar -xf - -C "$tree/code"
  tar -czf "$STATE/code.tar.gz" -C "$tree/code" .
  rm -rf "$tree"
  {
    printf '%s\n' "$(date -u +%FT%TZ)" "commit $COMMIT" "on $TYPE $RUNTIME in $ZONE of $PROJECT" \
      "./launch_tpu.sh $(quoted "${ARGUMENTS[@]}")"
    git diff HEAD
  } >"$STATE/launch.txt"
}

# --- talking to Google Cloud

# The words as bash reads them back, quoted only where they must be.
quoted() {
  local word line=''
  for word in "$@"; do
    [[ $word =~ ^[[:alnum:]_./:=@%+,-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  echo "${line# }"
}

# Runs a command, or prints it under --dry-run.
do_() {
  if [[ $DRY_RUN ]]; then
    quoted "$@" >&3
  else
    "$@"
  fi
}

tpu_vm() { do_ gcloud compute tpus tpu-vm "$@" "${WHERE[@]}"; }

# UNKNOWN when Google could not be asked, else what it answers: CREATING, READY, PREEMPTED... From a
# list, since `describe` fails alike for what is absent and for a lost network.
state_of() {
  do_ gcloud compute tpus "$1" list --filter="name ~ (^|/)$NAME\$" --format="value($2)" \
    "${WHERE[@]}" 2>/dev/null || echo UNKNOWN
}
vm_state() { state_of tpu-vm state | grep . || echo "$NO_VM"; }
request_state() { state_of queued-resources state.state | grep . || echo "$NO_REQUEST"; }

need_vm() {
  local state
  state=$(vm_state)
  [[ $state == READY || $DRY_RUN ]] || die "there is no VM $NAME to talk to in $ZONE (it is $state)"
}

# A gcloud command that talks to the workers, again when the connection breaks.
retrying() {
  local try status
  for ((try = 1; try <= SSH_TRIES; try++)); do
    status=0
    "$@" || status=$?
    case $status in
      0 | "$FAILED" | "$INTERRUPTED" | "$STOPPED") REACHED=1 && return "$status" ;;
    esac
    say "no connection (try $try of $SSH_TRIES)"
    still_there || return "$LOST"
  done
  [[ ! $REACHED ]] || return "$LOST"
  say "ssh never worked: docs/tpu.md says what to check (keys, firewall, ssh-add for pod slices)"
  return "$REFUSED"
}

on_workers() { retrying tpu_vm ssh "$NAME" --worker="$1" "${KEEPALIVE[@]}" --command="${*:2}"; }
remote() { on_workers "$1" "$REMOTE $(quoted "${@:2}")"; }

# Whether the VM stays READY for a moment: one that is being preempted still says so at first.
still_there() {
  local poll
  for ((poll = 0; poll < SETTLE_POLLS; poll++)); do
    case $(vm_state) in
      READY | UNKNOWN) sleep "$POLL" ;;
      *) return 1 ;;
    esac
  done
}

# --- a run

run() {
  preflight
  [[ $DRY_RUN ]] || mkdir -p "$STATE"
  pack_code
  [[ $WORKDIR != gs://* ]] || do_ gcloud storage cp "$STATE/launch.txt" "$WORKDIR/launch.txt"
  trap left_running EXIT
  trap interrupted INT TERM
  [[ ! $MAX_HOURS ]] || DEADLINE=$(awk "BEGIN {print int($SECONDS + $MAX_HOURS * 3600)}")
  TRAINING=(--config="$CONFIG" --workdir="$WORKDIR" ${DATA_DIR:+--config.data_dir="$DATA_DIR"})
  ((HOSTS == 1)) || TRAINING+=(--distributed)
  TRAINING+=("${FLAGS[@]}")
  local status tries=0
  while true; do
    status=0
    attempt || status=$?
    ((tries += 1))
    case $status in
      "$LOST") say "the VM is gone, or there was none to be had" && { delete || true; } ;;
      "$INTERRUPTED") say "the training was interrupted and saved; the VM is still there" ;;
      *) break ;;
    esac
    ((tries < MAX_TRIES)) || break
    say "trying again in $DELAY s (try $((tries + 1)) of $MAX_TRIES)"
    sleep "$DELAY"
    DELAY=$((DELAY * 2 < BACKOFF_MAX ? DELAY * 2 : BACKOFF_MAX))
  done
  finish "$status"
}

attempt() {
  ensure_vm || return
  say "copying the code ($COMMIT) and setting up"
  copy_code || return
  remote all setup || return
  remote all start "$NAME" -- "${TRAINING[@]}" || return
  DELAY=$BACKOFF
  follow
}

ensure_vm() {
  local state request='' said=''
  while true; do
    ((SECONDS < DEADLINE)) || return "$EXPIRED"
    state=$(vm_state)
    case $state in
      READY)
        BILLED_FROM=${BILLED_FROM:-$SECONDS}
        return
        ;;
      PREEMPTED | TERMINATED | STOPPED | STOPPING | DELETING | HIDING | HIDDEN) return "$LOST" ;;
      ABSENT)
        [[ ! $QUEUED ]] || request=$(request_state)
        case $request in
          '' | ABSENT)
            [[ ! $said ]] || return "$LOST" # it was there, or asked for, and vanished
            create || return
            ;;
          FAILED | SUSPENDING | SUSPENDED | DELETING) return "$LOST" ;;
        esac
        ;;
    esac
    [[ $said == "$state$request" ]] || say "waiting: VM $state${request:+, queued request $request}"
    said=$state$request
    [[ $DRY_RUN ]] || sleep "$POLL"
  done
}

create() {
  local error command=(compute tpus)
  say "asking for $TYPE in $ZONE${SPOT:+ (spot)}"
  if [[ $QUEUED ]]; then
    command+=(queued-resources create "$NAME" --node-id="$NAME" --runtime-version="$RUNTIME")
  else
    command+=(tpu-vm create "$NAME" --version="$RUNTIME")
  fi
  command+=(--accelerator-type="$TYPE" ${SPOT:+--spot} "${WHERE[@]}")
  [[ ! -s $LOG ]] || mv "$LOG" "$LOG.$(date -u +%Y%m%dT%H%M%SZ)" # of the VM before
  : >"$LOG"
  if error=$(do_ gcloud "${command[@]}" 2>&1 >&3); then
    [[ ! $DRY_RUN ]] || NO_VM=READY
    [[ ! $DRY_RUN || ! $QUEUED ]] || NO_REQUEST=ACTIVE
    return
  fi
  echo "$error" >&2
  # Lack of capacity passes; these do not.
  ! grep -qiE 'quota|PERMISSION_DENIED|INVALID_ARGUMENT|unrecognized arguments' <<<"$error" ||
    return "$REFUSED"
  return "$LOST"
}

# Not under a training that is running: it may import files yet.
copy_code() {
  local lock=cbam_flax/runs/$NAME/lock
  retrying tpu_vm scp "$STATE/code.tar.gz" "$NAME:cbam_flax.tar.gz" --worker=all &&
    on_workers all "if [ -e $lock ] && ! flock -n $lock true; then exit 0; fi;" \
      "rm -rf cbam_flax/code && mkdir -p cbam_flax/code &&" \
      "tar -xzf cbam_flax.tar.gz -C cbam_flax/code"
}

follow() {
  local status=0 line last=0 try=0 limit=()
  while true; do
    ((SECONDS < DEADLINE)) || return "$EXPIRED"
    [[ ! $MAX_HOURS ]] || limit=(timeout --foreground $((DEADLINE - SECONDS)))
    line=$(($(wc -l <"$LOG") + 1)) status=0
    try=$((line > last ? 0 : try + 1)) last=$line # connections that brought nothing
    ((try < SSH_TRIES)) || return "$LOST"
    do_ "${limit[@]}" gcloud compute tpus tpu-vm ssh "$NAME" --worker=0 "${KEEPALIVE[@]}" \
      --command="$REMOTE follow $NAME $line" "${WHERE[@]}" | tee -a "$LOG" || status=$?
    case $status in
      0 | "$STOPPED") return "$status" ;;
      124) return "$EXPIRED" ;;
    esac
    still_there || return "$LOST"
    case $status in
      "$FAILED" | "$INTERRUPTED") return "$status" ;;
      *) say "lost the connection; taking up the log again" ;;
    esac
  done
}

# --- the end of it

finish() {
  local exit_status
  case $1 in
    0) say "finished" && exit_status=0 ;;
    "$STOPPED") say "stopped on request; the same command goes on" && exit_status=75 KEEP=1 ;;
    "$EXPIRED")
      say "--max-hours=$MAX_HOURS is up: saving and ending"
      exit_status=4
      [[ ! $REACHED ]] || remote all stop "$NAME" || true
      ;;
    "$FAILED")
      say "the training failed; it is not tried again. The last lines of the log:"
      exit_status=1
      tail -n 30 "$LOG" >&2
      [[ ! $REACHED ]] || remote all status "$NAME" || true
      ;;
    "$REFUSED") say "trying again would not help" && exit_status=3 ;;
    *) say "giving up after $MAX_TRIES tries; the same command goes on" && exit_status=3 ;;
  esac
  [[ ! $REACHED ]] || fetch || say "the results could not be fetched: they are in $WORKDIR"
  if [[ ! $KEEP ]]; then
    delete || true
  fi
  bill
  exit "$exit_status"
}

# All but the checkpoints, which stay where the training can find them.
fetch() {
  [[ $DRY_RUN ]] || mkdir -p "$RESULTS"
  if [[ $WORKDIR == gs://* ]]; then
    do_ gcloud storage rsync "$WORKDIR" "$RESULTS" --recursive --exclude='checkpoints/.*' || return
  else
    tpu_vm scp "$NAME:$WORKDIR/*" "$RESULTS" --recurse --worker=0 || return
  fi
  say "the results are in $RESULTS"
}

# The VM and the queued request, until Google knows of neither.
delete() {
  local try
  if [[ $BILLED_FROM ]]; then
    ((BILLED += SECONDS - BILLED_FROM)) || true
    BILLED_FROM=''
  fi
  for ((try = 1; try <= SSH_TRIES; try++)); do
    if [[ $(request_state) != ABSENT ]]; then # brings the VM back; --force deletes the VM as well
      do_ gcloud compute tpus queued-resources delete "$NAME" --force --quiet "${WHERE[@]}" || true
    elif [[ $(vm_state) != ABSENT ]]; then
      tpu_vm delete "$NAME" --quiet || true
    else
      return 0
    fi
    NO_VM=ABSENT NO_REQUEST=ABSENT
    [[ $DRY_RUN ]] || sleep "$POLL"
  done
  say "$NAME could not be deleted"
  return 1
}

status() {
  [[ $(vm_state) != READY ]] || remote all status "$NAME"
  left_running
}

left_running() {
  [[ ! $DRY_RUN ]] || return 0
  local state request
  state=$(vm_state) request=$(request_state)
  case $state/$request in
    ABSENT/ABSENT) say "left running: nothing called $NAME in $ZONE" ;;
    *UNKNOWN*) say "LEFT RUNNING: Google could not be asked; see $(command_for status)" ;;
    *)
      say "LEFT RUNNING AND BILLED: $NAME in $ZONE (VM $state, queued request $request);" \
        "end it with $(command_for delete)"
      ;;
  esac
}
command_for() { echo "./launch_tpu.sh $1 --name=$NAME ${WHERE[*]}"; }

bill() {
  [[ ! $BILLED_FROM ]] || ((BILLED += SECONDS - BILLED_FROM)) || true
  awk -v hours="$BILLED" -v chips="$CHIPS" -v price="$PRICE" 'BEGIN {
    hours *= chips / 3600
    printf "launch_tpu: about %.2f chip-hours on %d chips", hours, chips
    print price == "" ? "" : sprintf(", at %s each %.2f", price, hours * price)
  }' >&2
}

interrupted() {
  say "interrupted here; what was started goes on there. To take it up again:"
  say "  ./launch_tpu.sh $(quoted "${ARGUMENTS[@]}")"
  exit 130
}

main "$@"
