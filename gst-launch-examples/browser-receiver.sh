#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Receives camera or screen of a browser; page and signalling server are inside
# the receiver, so that nothing else is needed.
#
# Open http://127.0.0.1:8081/ in Chromium, choose what to send and press Start.
# Expected: the browser asks for leave, and a second later a window shows the
# picture (on Debian the window needs the package gstreamer1.0-x). This goes on
# until it is interrupted.
#
# Parameters by environment:
#   WEB_PORT  of the page, TCP                          (8081)
#   PORT      of the signalling server, TCP             (8444)
#   LISTEN    address of both; browsers give the camera only to pages of this
#             machine or over HTTPS                     (127.0.0.1)
#   SINK      elements that show raw video              (autovideosink)
set -eu
WEB_PORT=${WEB_PORT:-8081}
PORT=${PORT:-8444}
LISTEN=${LISTEN:-127.0.0.1}
SINK=${SINK:-autovideosink}

# shellcheck disable=SC2086
exec gst-launch-1.0 dualwebrtcsrc run-web-server=true web-server-host="$LISTEN" web-server-port="$WEB_PORT" \
    run-signalling-server=true signalling-server-host="$LISTEN" signalling-server-port="$PORT" \
    ! videoconvert ! $SINK
