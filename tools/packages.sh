#!/usr/bin/env bash
# The Debian packages precis needs, and the one place where they are listed.
#   tools/packages.sh build        to build and run it (./start)
#   tools/packages.sh build test   to check it, too (./check)
# Installs what is missing (as root, or through sudo) and says so; does nothing when all is there.
set -euo pipefail
usage() { echo "usage: tools/packages.sh build|test ..." >&2; exit 2; }
[[ $# -gt 0 ]] || usage

build=(gcc libc6-dev make pkg-config
    libjansson-dev libcurl4-openssl-dev libssl-dev libpcre2-dev libutf8proc-dev libhwloc-dev libinih-dev libedit-dev
    zlib1g-dev libdeflate-dev libmicrohttpd-dev
    ca-certificates python3 python3-pip python3-venv) # pip fetches the default model

test=(git libcmocka-dev clang clang-format clang-tidy libclang-rt-14-dev curl
    chromium chromium-driver fonts-dejavu-core
    dpkg-dev debootstrap # test/slow/deb.py
    qemu-system-x86 e2fsprogs # test/slow/vm.py
    buildah # test/slow/container.py
    zsh fish mandoc) # completion and the manual are tried in what they are made for

wanted=()
for group in "$@"; do
    case $group in
        build) wanted+=("${build[@]}") ;;
        test) wanted+=("${test[@]}") ;;
        *) usage ;;
    esac
done

missing=()
for package in "${wanted[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || true
    [[ $state == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "tools/packages.sh: no apt-get here; please install what these Debian packages hold: ${missing[*]}" >&2
    exit 1
fi
as_root=()
if [[ $(id -u) -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
        echo "tools/packages.sh: neither root nor sudo; please install: ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
echo "==> installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    </dev/null >/dev/null
