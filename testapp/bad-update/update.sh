#!/bin/sh
echo "migrating the schema"
echo "no such column: colour" >&2
exit 7
