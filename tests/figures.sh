# shellcheck shell=bash
#
# Figures that are measured in rounds, and the tables of them. Sourced by the benches.

# Values by name, separated by blanks, one a round.
declare -A FIGURES=()

figure()
{
	FIGURES[$1]="${FIGURES[$1]:-} $2"
}

# last NAME: of this round.
last()
{
	echo "${FIGURES[$1]##* }"
}

calculate()
{
	awk "BEGIN { printf \"%.6f\", $1 }"
}

# quotient NUMBER NUMBER: of whole ones, without a process: sets QUOTIENT, to three digits behind the point.
quotient()
{
	local thousandths=$(($1 * 1000 / $2)) sign=''
	[ "$thousandths" -ge 0 ] || sign=- thousandths=$((-thousandths))
	printf -v QUOTIENT '%s%d.%03d' "$sign" $((thousandths / 1000)) $((thousandths % 1000))
}

# of_sorted NAME PROGRAM: awk's PROGRAM with the values in v[1] to v[n], from the least to the most, if there are any.
of_sorted()
{
	awk "{
		for (n = 0; n < NF; v[i + 1] = x) {
			x = \$(++n) + 0
			for (i = n - 1; i > 0 && v[i] > x; i--) v[i + 1] = v[i]
		}
		if (n > 0) { middle = (v[int((n + 1) / 2)] + v[int(n / 2) + 1]) / 2; $2 }
	}" <<<"${FIGURES[$1]:-}"
}

# middle NAME: the median; nothing when there is no value.
middle()
{
	of_sorted "$1" 'printf "%.6f", middle'
}

# most NAME: the greatest.
most()
{
	of_sorted "$1" 'printf "%.6f", v[n]'
}

# spread NAME DECIMALS: the median and, in brackets, the least and the most.
spread()
{
	[ -n "${FIGURES[$1]:-}" ] || { printf -- -; return; }
	of_sorted "$1" "printf \"%.$2f (%.$2f-%.$2f)\", middle, v[1], v[n]"
}

# row TITLE DECIMALS EXPECTED NAME...: a line of the table, a column for each name; "-" is an empty one.
row()
{
	local title=$1 decimals=$2 expected=$3 name
	shift 3
	printf '  %-29s' "$title"
	for name in "$@"; do
		printf ' %-22s' "$(spread "$name" "$decimals")"
	done
	printf ' %s\n' "$expected"
}

# machine_line KVM: what it was measured on.
machine_line()
{
	local processor commit
	processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort -u | head -n 1)
	commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
	[ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || commit=$commit+changes
	echo "machine: Linux $(uname -r), $processor, $(nproc) cores, /dev/kvm $1, commit $commit," \
		"load $(cut -d ' ' -f 1 /proc/loadavg)"
}

# text_row TITLE DECIMALS NAME...: as row, without what was expected.
text_row()
{
	local title=$1 decimals=$2
	shift 2
	row "$title" "$decimals" "" "$@"
}

# markdown_row TITLE DECIMALS NAME...
markdown_row()
{
	local decimals=$2 name
	printf '| %s |' "${1#  }"
	shift 2
	for name in "$@"; do
		printf ' %s |' "$(spread "$name" "$decimals")"
	done
	echo
}

# markdown_head TITLE...
markdown_head()
{
	local title
	printf '| %s ' "$@"
	echo '|'
	for title; do
		printf '| --- '
	done
	echo '|'
}

# figures_json: all of them, each an array.
figures_json()
{
	local name
	for name in "${!FIGURES[@]}"; do
		echo "$name${FIGURES[$name]}"
	done | sort | jq -Rn '[inputs | split(" ") | {(.[0]): (.[1:] | map(tonumber))}] | add'
}
