#!/bin/sh
# What an application does between two versions: here, it leaves a mark.
echo "update.sh $*" >updated
