#!/bin/sh
# Stands for a C compiler and an archiver where code is type-checked for a target that has none here: it says that it
# is Clang, and compiles nothing.
case "$*" in
    '-?'*) exit 1 ;;
    *-E*) echo '"clang"' ;;
esac
