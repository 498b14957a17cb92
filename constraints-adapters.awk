# Constraints of one adapter: its own pins, then those of constraints.txt for everything else.
# awk -v name=mace -f constraints-adapters.awk constraints-adapters.txt constraints.txt

/^#/ || NF == 0 { next }
FNR == NR { if ($1 == name) { split($2, pin, "=="); own[pin[1]] = 1; print $2 } next }
{ split($1, pin, "=="); if (!(pin[1] in own)) print }
