#!/bin/bash
#
# Two machines and a prompt, for trying things out: `make lab SHELL=1`.

. "${0%/*}/lab.sh"
LAB_SHELL=1
lab_boot "a prompt with two machines"
lab_finish
