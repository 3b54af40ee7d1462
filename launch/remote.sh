#!/usr/bin/env bash
# The part of launch_tpu.sh that runs on every worker of the slice, from ~/cbam_flax/code.
#
#   remote.sh setup                        the pinned packages, once for each set of pins
#   remote.sh start RUN -- FLAG...         cbam_flax.main in the background, once
#   remote.sh follow RUN LINE              its log from LINE on, until it ends
#   remote.sh stop|status RUN
#
# Exit status: 0 done, 70 failed, 75 interrupted (start it again), 76 stopped on request. Anything
# else comes from gcloud or ssh, so that the caller can tell a lost connection from a failure.
set -euo pipefail

readonly FAILED=70 INTERRUPTED=75 STOPPED=76
readonly UV=0.13.9
readonly CODE=$HOME/cbam_flax/code

setup() {
  cd "$CODE"
  local pins venv python
  pins=$(cat requirements-tpu.txt requirements.txt constraints.txt | sha256sum | cut -c1-16)
  venv=$HOME/cbam_flax/venvs/$pins
  if [[ ! -e $venv/installed ]]; then
    python=$(find_python)
    echo "installing with $("$python" --version) into $venv"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements-tpu.txt
    "$venv/bin/python" -m pip check
    touch "$venv/installed" # last, so that an install that was cut off is done again
  fi
  ln -sfn "$venv" "$HOME/cbam_flax/venv"
}

# Ubuntu 22.04, which the TPU images are, comes with Python 3.10; JAX needs 3.11.
find_python() {
  local name
  for name in python3.11 python3.12 python3.13 python3; do
    if "$name" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  python3 -m pip install --quiet --user "uv==$UV" >&2
  python3 -m uv python install --quiet 3.11 >&2
  python3 -m uv python find 3.11
}

# The lock is handed down to the training: held means that it runs.
is_running() { [[ -e $1/lock ]] && ! flock --nonblock "$1/lock" true; }

start() {
  local run=$1
  shift 2
  mkdir -p "$run"
  exec 9>"$run/lock"
  if ! flock --nonblock 9; then
    echo "training is already running here"
    return
  fi
  rm -f "$run"/{status,stop}
  setsid nohup bash "$CODE/launch/remote.sh" supervise "$run" "$@" >>"$run/log" 2>&1 </dev/null &
  echo $! >"$run/pid"
}

supervise() {
  local run=$1 status=0
  shift
  cd "$CODE"
  trap : TERM # sent to the whole group: bash waits for the training, which saves and ends
  "$HOME/cbam_flax/venv/bin/python" -m cbam_flax.main "$@" || status=$?
  echo "$status" >"$run/status"
}

follow() {
  local run=$1 line=$2 status
  if is_running "$run"; then
    tail -n "+$line" --follow=name --pid="$(cat "$run/pid")" "$run/log"
  else
    tail -n "+$line" "$run/log"
  fi
  # No status: the machine itself went down under the supervisor.
  status=$(cat "$run/status" 2>/dev/null || echo "$INTERRUPTED")
  if [[ $status == 0 ]]; then
    return
  elif [[ -e $run/stop ]]; then
    return "$STOPPED"
  elif [[ $status == "$INTERRUPTED" || $status == 143 ]]; then # 143: SIGTERM before the first step
    return "$INTERRUPTED"
  fi
  echo "cbam_flax.main ended with status $status"
  return "$FAILED"
}

stop() {
  local run=$1
  is_running "$run" || return 0
  touch "$run/stop"
  kill -TERM -- "-$(cat "$run/pid")"
  # A save to a bucket takes its time; what takes longer than this hangs.
  flock --timeout 300 "$run/lock" true || kill -KILL -- "-$(cat "$run/pid")"
}

status() {
  local run=$1 state
  if is_running "$run"; then
    state="training"
  elif [[ -e $run/status ]]; then
    state="ended with status $(cat "$run/status")"
  else
    state="not started"
  fi
  echo "$(hostname): $state; $(tail -n 1 "$run/log" 2>/dev/null || echo 'no log')"
}

command=$1
shift
case $command in
  setup)
    trap '(($? == 0)) || exit "$FAILED"' EXIT
    setup
    ;;
  start | supervise | follow | stop | status)
    run=$1
    shift
    [[ $run == /* ]] || run=$HOME/cbam_flax/runs/$run
    "$command" "$run" "$@"
    ;;
  *) exit "$FAILED" ;;
esac
