#!/bin/bash
#
# The scenario of the lab with a stock Debian guest that every run of all tests includes: recorded from its boot
# to its power-off, and replayed.
#
# Alone: its machines need both processors.

exec "${0%/*}/../lab/scenarios/linux.sh"
