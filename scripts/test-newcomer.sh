#!/usr/bin/env bash
# Runs the commands that README has for newcomers, on a fresh Debian each time and from
# nothing, as root and as a user who may use sudo: all, or those named:
#   scripts/test-newcomer.sh [bookworm|trixie] [root|user]
# Takes half an hour each, and gigabytes. The packages come from this machine's mirrors.
source "$(dirname "$0")/common.sh"

say_what_became_of_it() { # RESULT
    printf '%s\n' "$1" | tee -a "$results" >&2
}

# --- In the fresh Debian, as the newcomer ---

if [[ ${1-} == inside ]]; then
    mapfile -t commands < <(sed -n '/^## Try it/,/^## Install/ s/^    \$ //p' README.md)
    [[ ${commands[*]} == 'make run make test' ]] || die "README has other commands now: ${commands[*]}"
    screen=$(mktemp "$HOME/screen.XXXXXX")

    left_behind() {
        find /tmp -mindepth 1
        # shellcheck disable=SC2009 # pgrep shows no arguments in this way
        ps -eo args= | grep -E '^[p]ostgres: |/bin/[p]ostgres ' || true
    }

    # At a terminal of the usual size, which is closed after a while.
    say "${commands[0]}, at a terminal"
    script --quiet --flush --command "stty cols 80 rows 24; ${commands[0]}" "$screen" </dev/null >&2 &
    terminal=$!
    until (($(grep -c "LOG:  Currently" "$screen") > 3)); do
        kill -0 $terminal 2>/dev/null || die "${commands[0]} ended by itself"
        sleep 1
    done
    echo "${commands[0]}: counts after $SECONDS s"
    grep -q 'rows\?)' "$screen" || die "${commands[0]} did not show a row"
    kill -KILL $terminal # closes the terminal
    for ((i = 0; i < 60; i++)); do
        left=$(left_behind)
        [[ -n $left ]] || break
        sleep 1
    done
    [[ -z $left ]] || die "${commands[0]} left behind: $left"

    say "${commands[1]}"
    SECONDS=0
    ${commands[1]} </dev/null >&2
    echo "${commands[1]}: passed after $SECONDS s"
    left=$(left_behind)
    [[ -z $left ]] || die "${commands[1]} left behind: $left"
    ! compgen -G '/etc/postgresql/*/*' >&2 || die "there is a cluster that nobody asked for"
    exit
fi

# --- On this machine ---

releases=() users=()
for argument; do
    case $argument in
        bookworm | trixie) releases+=("$argument") ;;
        root | user) users+=("$argument") ;;
        *) die "not a release or a user: $argument" ;;
    esac
done
((${#releases[@]})) || releases=(bookworm trixie)
((${#users[@]})) || users=(root user)

is_root || die "this takes root"
command -v debootstrap >/dev/null || apt_install debootstrap

mkdir -p "$cache"
work=$(mktemp -d "$cache/newcomer.XXXXXX")
results=$work/results
clean_up() {
    clean_up_in_peace
    end_job
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
exit_on_signals 130

codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
# This machine's suites of Debian, with those of security, for another release.
sources_for() { # RELEASE
    # shellcheck disable=SC2016 # apt expands these
    apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        sed -nE "s|^Debian ([^ ]+) $codename|deb \1 $1|p" | sort -u | sed 's/$/ main/'
}

make_debian() { # RELEASE: leaves it in $work/RELEASE
    local root=$work/$1 mirror
    say "Making a Debian $1"
    mirror=$(sources_for "$1" | awk -v "release=$1" '$3 == release { print $2; exit }')
    [[ -n $mirror ]] || die "apt's configuration names no Debian mirror"
    debootstrap --include=make,sudo "$1" "$root" "$mirror" >"$work/log" || die "$(tail "$work/log")"
    sources_for "$1" >"$root/etc/apt/sources.list"
    # What is needed to reach the network from here.
    apt-config dump | grep -E '^Acquire::(https?|ftp|Check[^:]*|Retries)' >"$root/etc/apt/apt.conf.d/90machine" || true
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    mkdir -p "$root/usr/local/share/ca-certificates"
    ! compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null ||
        cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
    chroot "$root" useradd --create-home --shell /bin/bash user
    echo 'user ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/user"
}

newcomer() { # RELEASE USER
    local home=/home/user
    [[ $2 == user ]] || home=/root
    mkdir "$work/$1-$2" "$work/work-$1-$2"
    git ls-files -z | tar --null -T - -cf "$work/repository.tar"
    # A file system that only these processes see, and that disappears with them.
    unshare --mount --pid --ipc --fork --kill-child bash -euo pipefail -s "$@" "$home" "$work" <<'END'
        release=$1 user=$2 home=$3 work=$4
        root=$work/root
        mkdir -p "$root"
        mount -t overlay overlay "$root" \
            -o "lowerdir=$work/$release,upperdir=$work/$release-$user,workdir=$work/work-$release-$user"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs tmpfs "$root/dev/shm"
        mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
        mount --bind "$root/dev/pts/ptmx" "$root/dev/ptmx"
        mkdir "$root$home/count_relations"
        tar -xf "$work/repository.tar" -C "$root$home/count_relations"
        chroot "$root" chown -R "$user:" "$home/count_relations"
        proxies=$(env | grep -iE '^(https?|ftp|all|no)_proxy=' || true)
        # With SIGHUP as at any terminal, even if this script was started with nohup.
        # shellcheck disable=SC2086 # several words
        chroot "$root" setpriv --reuid="$user" --regid="$user" --init-groups \
            env -i --default-signal=HUP $proxies HOME="$home" USER="$user" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            LANG=C.UTF-8 TERM=xterm \
            "$home/count_relations/scripts/test-newcomer.sh" inside </dev/null
END
}

failed=0
for release in "${releases[@]}"; do
    run_job make_debian "$release"
    for user in "${users[@]}"; do
        result=passed
        said=$work/said
        run_job newcomer "$release" "$user" >"$said" || result=FAILED failed=1
        size=$(du -sm "$work/$release-$user" | cut -f 1)
        say_what_became_of_it "$result: $release as $user: $(paste -sd ';' "$said"); $size MB of files"
        rm -rf --one-file-system "$work/$release-$user" "$work/work-$release-$user"
    done
done

say "Results"
cat "$results" >&2
exit $failed
