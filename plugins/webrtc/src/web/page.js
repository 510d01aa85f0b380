// SPDX-License-Identifier: MPL-2.0
// What both directions have in common: set-up, signalling, words for errors.
//
// Query parameters, each optional: `role` (receive or send), `signalling` (URI
// of the server), `autostart=1`, and those that config.json has.

import GstWebRTCAPI from './gstwebrtc-api-3.0.0.esm.js';
import {Watch} from './watch.js';
import {Send} from './send.js';

const RECONNECT = 2000;
const element = id => document.getElementById(id);

const ui = {
    element,
    status(text) {
        element('status').textContent = text;
    },
    /// Stays until it is cleared by null.
    error(text) {
        element('error').hidden = text === null;
        element('error').textContent = text ?? '';
    },
    kind(text) {
        element('kind').textContent = text;
    },
    blank(text) {
        element('blank').hidden = text === null;
        element('blank').textContent = text ?? '';
    },
    running(running) {
        element('start').disabled = running;
        element('stop').disabled = !running;
    },
};

/// A server on this machine, as seen from the machine that it runs on, is
/// where the page came from.
function reachable(uri) {
    const url = new URL(uri);
    if (['127.0.0.1', 'localhost', '[::1]'].includes(url.hostname))
        url.hostname = location.hostname;
    return url.href;
}

async function configuration() {
    const query = new URLSearchParams(location.search);
    let config = {};
    const answer = await fetch('config.json');
    if (answer.ok)
        config = await answer.json();
    for (const name of ['role', 'signalling', 'stun', 'autostart']) {
        if (query.has(name))
            config[name] = query.get(name);
    }
    if (!config.signalling)
        throw new Error('nobody says where the signalling server is; add ?signalling=ws://host:port to the address');
    config.signalling = reachable(config.signalling);
    return config;
}

async function begin() {
    const config = await configuration();
    document.body.dataset.role = config.role === 'send' ? 'send' : 'receive';
    const stun = config.stun && config.stun.replace('stun://', 'stun:');
    const api = new GstWebRTCAPI({
        signalingServerUrl: config.signalling,
        reconnectionTimeout: RECONNECT,
        webrtcConfig: {iceServers: stun ? [{urls: [stun]}] : [], bundlePolicy: 'max-bundle'},
    });
    const page = config.role === 'send' ? new Send(ui, api) : new Watch(ui, api);
    // For tests and the curious: figures as they are now.
    window.dualstream = page;
    let tries = 0;
    api.registerConnectionListener({
        connected() {
            tries = 0;
            ui.error(null);
            ui.running(page.wanted);
            page.connected();
            if (config.autostart && !page.wanted)
                page.start();
        },
        disconnected() {
            element('start').disabled = true;
            page.disconnected();
            tries += 1;
            ui.status('Not connected');
            if (tries > 1)
                ui.error(`The signalling server at ${config.signalling} does not answer. Is the other side running? Trying again every ${RECONNECT / 1000} s.`);
        },
    });
    ui.status('Looking for the signalling server …');
    element('start').onclick = () => page.start();
    element('stop').onclick = () => page.stop();
    window.addEventListener('pagehide', () => page.stop());
}

begin().catch(error => {
    ui.status('Cannot work');
    ui.error(`The page cannot be set up: ${error.message}`);
});
