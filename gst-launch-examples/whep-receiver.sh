#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Plays from a WHEP server.
#
# Expected: within a second or two, a window with a ball that moves without a
# pause (on Debian the window needs the package gstreamer1.0-x).
#
# Parameters by environment:
#   PORT     of the server on this machine     (9090)
#   ENDPOINT URL of the WHEP endpoint          (http://127.0.0.1:$PORT/whep/endpoint)
#   SINK     elements that show raw video      (autovideosink)
set -eu
PORT=${PORT:-9090}
ENDPOINT=${ENDPOINT:-http://127.0.0.1:$PORT/whep/endpoint}
SINK=${SINK:-autovideosink}

# shellcheck disable=SC2086
exec gst-launch-1.0 dualwebrtcsrc signalling=whep-client signaller::whep-endpoint="$ENDPOINT" \
    ! videoconvert ! $SINK
