# Functions for scripts that make a bare Debian or Ubuntu: tools/fresh and containers/debian-slim source this file. They expect
# `suite` (trixie, noble), `kept`, a directory for downloads and logs, and `fail`, which prints an error and exits.

# What a bare system and its files need.
readonly room_kilobytes=$((6 * 1024 * 1024))

# The settings with which this machine's apt reaches a mirror.
apt_settings() {
    apt-config dump | grep -E '^Acquire::(https?|Check-[A-Za-z-]+)(::| )' || true
    echo 'Acquire::Languages "none";'
}

sources() {
    local archive
    if is_ubuntu; then
        archive=$(mirror_of Ubuntu http://archive.ubuntu.com/ubuntu)
        printf 'deb %s %s main universe\n' "$archive" "$suite" "$archive" "$suite-updates" "$archive" "$suite-security"
    else
        archive=$(mirror_of Debian http://deb.debian.org/debian)
        printf 'deb %s %s main\n' "$archive" "$suite" "$archive" "$suite-updates" \
            "$(mirror_of Debian-Security http://deb.debian.org/debian-security)" "$suite-security"
    fi
}

# This machine's mirror of a distribution; the distribution's own address on a machine of another one.
mirror_of() {
    local found
    found=$(apt-get indextargets --format '$(SITE)' "Label: $1" 2>/dev/null | head -n 1) || true
    echo "${found:-$2}"
}

place_with_room() {
    local place
    for place in /dev/shm /var/tmp; do
        if [ "$(df --output=avail "$place" 2>/dev/null | tail -n 1)" -gt "$room_kilobytes" ]; then
            echo "$place"
            return
        fi
    done
    fail "A fresh machine needs 6 GiB: free them in /dev/shm or /var/tmp."
}

# The settings with which this machine's pip reaches an index.
pip_settings() {
    echo "[global]"
    python3 -m pip config list 2>/dev/null | sed -nE "s/^[^=]*\.(index-url|proxy|timeout|trusted-host)='(.*)'\$/\1 = \2/p" | sort --unique
    [ -z "${https_proxy:-}" ] || echo "proxy = $https_proxy"
    local certificates
    certificates=$(python3 -m pip config list 2>/dev/null | sed -nE "s/^[^=]*\.cert='(.*)'\$/\1/p" | tail -n 1)
    if [ -n "$certificates" ]; then
        cp "$certificates" "$1/etc/pip-certificates.pem"
        echo "cert = /etc/pip-certificates.pem"
    fi
}

install_programs() {
    local missing=()
    command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "Installing with apt: ${missing[*]}"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update >"$kept/apt.log" 2>&1 || true
    "${apt[@]}" install --yes --no-install-recommends "${missing[@]}" >>"$kept/apt.log" 2>&1 ||
        fail "Missing system packages: ${missing[*]} (apt's output: $kept/apt.log)"
}

is_ubuntu() {
    case $suite in
        jammy | noble | questing | resolute) true ;;
        *) false ;;
    esac
}
