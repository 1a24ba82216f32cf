#!/usr/bin/env bash
# The fast tests where others may run them: on another processor, a busy machine, in another order, as another user.
# A line a situation: its name, pytest's last line, passed or FAILED. Exit status 1 if any failed.
#
#   bash tests/anywhere.sh                                     # every situation
#   bash tests/anywhere.sh default avx2 -- tests/trainables    # some; pytest gets what stands behind --
set -uo pipefail
cd "$(dirname "$0")/.."
KNOWN=(default avx2 busy nobytecode random user home)
work=$(mktemp -d)
loops=()
failed=0
trap 'kill ${loops[@]:-} 2>/dev/null; [ $failed = 1 ] || rm -rf "$work"' EXIT

names=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
	[[ " ${KNOWN[*]} " == *" $1 "* ]] || { echo "unknown situation $1; known: ${KNOWN[*]}" >&2; exit 2; }
	names+=("$1")
	shift
done
[ $# -eq 0 ] || shift
extra=("$@")
[ ${#names[@]} -gt 0 ] || names=("${KNOWN[@]}")

# tests NAME COMMAND…: the tests, started by COMMAND (env, setpriv), in the current folder, and their line.
tests() {
	local name=$1 log="$work/$1.log" outcome=passed
	shift
	OMP_NUM_THREADS=1 "$@" .venv/bin/python -m pytest -m "not slow" -n 2 --dist loadscope \
		${options[@]+"${options[@]}"} ${extra[@]+"${extra[@]}"} >"$log" 2>&1 || outcome="FAILED, see $log"
	[ "$outcome" = passed ] || failed=1
	echo "$name: $(tail -n 1 "$log" | tr -d =): $outcome"
}

# A copy of the clone that nobody owns; the libraries are those of this one.
as_nobody() {
	local become=(setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups) clone="$work/here/clone"
	[ "$(id -u)" = 0 ] || { echo "user: skipped: only root can become another user"; return; }
	"${become[@]}" env .venv/bin/python -c "" 2>/dev/null || { echo "user: skipped: nobody may not run .venv/bin/python"; return; }
	mkdir -p "$clone" "$work/here/home"
	git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read \
		2>/dev/null | tar --extract --directory="$clone"
	ln -s "$PWD/.venv" "$clone/.venv"
	[ ! -e ../shared ] || ln -s "$(cd ../shared && pwd)" "$work/here/shared"
	chown -R nobody: "$work/here"
	chmod 755 "$work"
	cd "$clone"
	tests user "${become[@]}" env HOME="$work/here/home" TMPDIR=/tmp
	cd - >/dev/null
}

for name in "${names[@]}"; do
	options=()
	case $name in
	default) tests default env ATEN_CPU_CAPABILITY=default ;;
	avx2) tests avx2 env ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ;;
	busy)
		for _ in 1 2; do
			while :; do :; done &
			loops+=($!)
		done
		tests busy env
		kill "${loops[@]}"
		wait "${loops[@]}" 2>/dev/null
		loops=()
		;;
	nobytecode) tests nobytecode env PYTHONDONTWRITEBYTECODE=1 ;;
	random)
		options=(-p randomly --randomly-seed="$RANDOM")
		tests random env
		;;
	user) as_nobody ;;
	home)
		mkdir "$work/home"
		tests home env -u XDG_CACHE_HOME -u XDG_CONFIG_HOME -u XDG_DATA_HOME -u MPLCONFIGDIR HOME="$work/home"
		;;
	esac
done
exit $failed
