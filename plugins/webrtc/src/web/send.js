// SPDX-License-Identifier: MPL-2.0
// Sends camera or screen.

import {Plot, facts, kbps, ms, percent, count} from './plots.js';

const STATISTICS_INTERVAL = 500;
const FPS = 30;

const WORDS = {
    NotAllowedError: 'The browser was not allowed to use it: allow it in the address bar and press Start again.',
    NotFoundError: 'There is none here: connect one, or choose another source.',
    NotReadableError: 'Another program may be using it: close that and press Start again.',
    OverconstrainedError: 'It cannot do what was asked of it.',
};

export class Send {
    constructor(ui, api) {
        this.ui = ui;
        this.api = api;
        this.wanted = false;
        this.producer = null;
        this.peers = new Map();
        this.figures = {};
        this.before = null;
        this.plots = {
            bitrate: new Plot('bitrate', kbps, {floor: 100e3}),
            fps: new Plot('pictures a second', count, {floor: FPS}),
            rtt: new Plot('round trip', ms, {floor: 10}),
            loss: new Plot('packets lost', percent, {floor: .01}),
            encode: new Plot('encoding of a picture', ms, {floor: 5}),
            keys: new Plot('key frames so far', count, {floor: 1}),
        };
        ui.blank('Press Start to choose what to send');
    }

    connected() {
        this.ui.status('Ready: press Start');
        if (this.wanted)
            this.produce();
    }

    /// The session is gone with the signalling server; the camera stays.
    disconnected() {
        this.producer = null;
        if (this.wanted)
            this.ui.status('The signalling server is gone');
    }

    async start() {
        this.wanted = true;
        this.ui.running(true);
        this.ui.error(null);
        try {
            await this.capture();
        } catch (error) {
            this.stop();
            this.ui.error(WORDS[error.name] ?? `Nothing to send: ${error.message}`);
            return;
        }
        this.produce();
    }

    async capture() {
        const source = this.ui.element('source').value;
        if (!navigator.mediaDevices)
            throw new Error('browsers give camera and screen only to pages of this machine (localhost) or over HTTPS.');
        const video = {width: {ideal: 1280}, height: {ideal: 720}, frameRate: {ideal: FPS}};
        this.stream = source === 'screen'
            ? await navigator.mediaDevices.getDisplayMedia({video: {frameRate: {ideal: FPS}}})
            : await navigator.mediaDevices.getUserMedia({video, audio: source === 'camera'});
        for (const track of this.stream.getVideoTracks()) {
            track.contentHint = source === 'screen' ? 'detail' : 'motion';
            track.addEventListener('ended', () => this.stop());
        }
        const preview = this.ui.element('video0');
        preview.srcObject = this.stream;
        preview.classList.add('shown');
        preview.play().catch(() => {});
        this.ui.blank(null);
    }

    produce() {
        if (this.producer || !this.stream)
            return;
        // It stops the tracks that it is given when it ends, and a lost
        // signalling server ends it.
        const producer = this.api.createProducerSession(this.stream.clone());
        if (!producer)
            return;
        this.producer = producer;
        producer.addEventListener('error', event =>
            this.ui.error(`The session failed: ${event.error?.message ?? event.message}`));
        producer.addEventListener('clientConsumerAdded', event => this.serve(event.detail));
        producer.addEventListener('clientConsumerRemoved', event => {
            this.peers.delete(event.detail);
            this.ui.status('Waiting for the receiver');
        });
        producer.start();
        this.ui.status('Waiting for the receiver');
        clearInterval(this.statistics);
        this.statistics = setInterval(() => this.measure().catch(() => {}), STATISTICS_INTERVAL);
    }

    serve(session) {
        const peer = session.rtcPeerConnection;
        this.peers.set(session, peer);
        this.before = null;
        this.ui.status('Connecting …');
        peer.addEventListener('connectionstatechange', () => {
            if (peer.connectionState === 'connected') {
                this.ui.status('Sending');
                this.ui.error(null);
                this.limit(peer).catch(() => {});
            } else if (peer.connectionState === 'failed') {
                this.ui.error('No way through the network to the receiver: is UDP blocked between here and there, or a TURN server needed?');
                session.close();
            }
        });
    }

    async limit(peer) {
        const rate = Number(this.ui.element('rate').value) * 1000;
        for (const sender of peer.getSenders().filter(one => one.track?.kind === 'video')) {
            const parameters = sender.getParameters();
            for (const encoding of parameters.encodings)
                encoding.maxBitrate = rate;
            parameters.degradationPreference = 'maintain-framerate';
            await sender.setParameters(parameters);
        }
    }

    stop() {
        this.wanted = false;
        clearInterval(this.statistics);
        if (this.producer)
            this.producer.close();
        this.producer = null;
        this.peers.clear();
        for (const track of this.stream?.getTracks() ?? [])
            track.stop();
        this.stream = null;
        this.ui.element('video0').srcObject = null;
        this.ui.running(false);
        this.ui.status('Stopped');
        this.ui.blank('Stopped');
        this.ui.kind('');
    }

    async measure() {
        const peer = [...this.peers.values()].at(-1);
        if (!peer || peer.connectionState !== 'connected')
            return;
        const statistics = await peer.getStats();
        let out = null;
        let remote = null;
        let rtt = null;
        let codec = null;
        statistics.forEach(s => {
            if (s.type === 'outbound-rtp' && s.kind === 'video')
                out = s;
            if (s.type === 'remote-inbound-rtp' && s.kind === 'video')
                remote = s;
            if (s.type === 'candidate-pair' && s.nominated && s.currentRoundTripTime !== undefined)
                rtt = s.currentRoundTripTime * 1000;
        });
        if (!out)
            return;
        if (out.codecId)
            codec = statistics.get(out.codecId)?.mimeType ?? null;
        const now = performance.now();
        const bytes = out.bytesSent + (out.headerBytesSent ?? 0);
        const before = this.before;
        this.before = {now, bytes, time: out.totalEncodeTime, frames: out.framesEncoded};
        if (!before)
            return;
        const frames = out.framesEncoded - before.frames;
        const bitrate = (bytes - before.bytes) * 8000 / (now - before.now);
        const encode = frames > 0 ? (out.totalEncodeTime - before.time) / frames * 1000 : null;
        const loss = remote?.fractionLost ?? null;
        this.plots.bitrate.push(bitrate);
        this.plots.fps.push(out.framesPerSecond ?? 0);
        this.plots.rtt.push(rtt);
        this.plots.loss.push(loss);
        this.plots.encode.push(encode);
        this.plots.keys.push(out.keyFramesEncoded ?? 0);
        this.ui.kind(codec === null ? '' : codec.replace('video/', ''));
        const why = {none: 'nothing', cpu: 'this machine', bandwidth: 'the network'}[out.qualityLimitationReason] ?? '–';
        facts([
            ['picture', `${out.frameWidth ?? 0} × ${out.frameHeight ?? 0}`],
            ['sent', `${out.framesEncoded} frames, ${out.packetsSent} packets`],
            ['sent again', `${out.retransmittedPacketsSent ?? 0} packets, ${out.nackCount ?? 0} asked for`],
            ['held down by', why],
        ]);
        this.figures = {bitrate, rtt, loss, encode, codec, frames: out.framesEncoded, fps: out.framesPerSecond};
    }

    report() {
        return {
            ...this.figures,
            wanted: this.wanted,
            peers: this.peers.size,
            connection: [...this.peers.values()].at(-1)?.connectionState ?? null,
            status: this.ui.element('status').textContent,
            error: this.ui.element('error').textContent,
        };
    }
}
