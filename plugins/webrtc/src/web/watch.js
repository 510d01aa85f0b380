// SPDX-License-Identifier: MPL-2.0
// Receives: shows the display stream of the two, says over the data channel
// what of the other one was decoded, and measures. Messages: docs/wire-formats.md.

import {Plot, facts, kbps, ms, percent, count} from './plots.js';

const VERSION = 1;
const HELLO_INTERVAL = 200;
/// "Complete" is said again after these times, in ms, unless there is a newer one.
const AGAIN = [50, 100, 200, 400];
const CLOCK_INTERVAL = 1000;
const CLOCKS = 10;
const STATISTICS_INTERVAL = 500;
const VIDEO_RATE = 90;  // per ms
const RETRY = [1000, 2000, 4000, 8000];
/// W3C webrtc-stats, freezeCount.
const FREEZE_HISTORY = 30;
const FREEZE_EXCESS = 150;

const signed = value => value | 0;
const wall = now => performance.timeOrigin + now;

/// One of the two streams.
class Stream {
    constructor(index, video) {
        this.index = index;
        this.video = video;
        this.clear();
    }

    clear() {
        this.rtp = null;
        this.pictures = 0;
        this.timers = [];
    }
}

/// Freezes of what is shown, whichever stream it comes from.
class Freezes {
    constructor() {
        this.last = null;
        this.intervals = [];
        this.count = 0;
        this.duration = 0;
        this.longest = 0;
    }

    shown(now) {
        const interval = this.last === null ? null : now - this.last;
        this.last = now;
        if (interval === null)
            return;
        if (this.intervals.length >= FREEZE_HISTORY) {
            const mean = this.intervals.reduce((a, b) => a + b) / this.intervals.length;
            if (interval >= Math.max(3 * mean, mean + FREEZE_EXCESS)) {
                this.count += 1;
                this.duration += interval;
            }
            this.longest = Math.max(this.longest, interval);
            this.intervals.shift();
        }
        this.intervals.push(interval);
    }
}

export class Watch {
    constructor(ui, api) {
        this.ui = ui;
        this.api = api;
        this.wanted = false;
        this.session = null;
        this.peer = null;
        this.failures = 0;
        this.streams = [0, 1].map(index => new Stream(index, ui.element(`video${index}`)));
        this.audio = ui.element('audio');
        this.plots = {
            bitrate: new Plot('bitrate', kbps, {floor: 100e3}),
            latency: new Plot('latency, capture to screen', ms, {floor: 50}),
            rtt: new Plot('round trip', ms, {floor: 10}),
            loss: new Plot('packets lost', percent, {floor: .01}),
            freezes: new Plot('freezes so far', count, {floor: 1}),
            switches: new Plot('switches so far', count, {floor: 1}),
        };
        this.clear();
        ui.element('sound').onchange = () => this.hear();
        ui.element('full').onclick = () => ui.element('stage').requestFullscreen().catch(() => {});
        api.registerPeerListener({
            producerAdded: () => this.seek(),
            producerRemoved: () => {},
        });
        this.streams.forEach(stream => this.follow(stream));
    }

    clear() {
        this.channel = null;
        this.welcome = false;
        this.videos = 0;
        this.display = 0;
        /// The switch that is announced, until its first picture is here.
        this.announced = null;
        this.generation = null;
        this.switches = 0;
        this.freezes = new Freezes();
        this.clocks = [];
        this.asked = new Map();
        this.clock = null;
        this.captured = [null, null];
        this.latencies = [];
        this.allLatencies = [];
        this.completes = 0;
        this.figures = {};
        this.before = null;
        this.streams.forEach(stream => {
            stream.timers.forEach(clearTimeout);
            stream.clear();
        });
    }

    start() {
        this.wanted = true;
        this.failures = 0;
        this.ui.error(null);
        this.ui.running(true);
        this.seek();
    }

    stop() {
        this.wanted = false;
        clearTimeout(this.retry);
        if (this.session)
            this.session.close();
        this.ui.running(false);
        this.ui.status('Stopped');
        this.ui.blank('Stopped');
    }

    connected() {
        this.ui.status('Ready: press Start');
        this.seek();
    }

    disconnected() {}

    /// Asks the newest sender for a session, if there is one and none is had.
    seek() {
        if (!this.wanted || this.session)
            return;
        const producer = this.api.getAvailableProducers().at(-1);
        if (!producer) {
            this.ui.status('Waiting for a sender');
            return;
        }
        const session = this.api.createConsumerSession(producer.id);
        if (!session)
            return;
        this.clear();
        this.session = session;
        this.ui.status('Connecting …');
        this.ui.blank('Connecting …');
        session.addEventListener('rtcPeerConnectionChanged', () => {
            if (session.rtcPeerConnection)
                this.begin(session.rtcPeerConnection);
        });
        session.addEventListener('error', event =>
            this.ui.error(`The session failed: ${event.error?.message ?? event.message}`));
        session.addEventListener('closed', () => this.ended(session));
        session.connect();
    }

    ended(session) {
        if (this.session !== session)
            return;
        const had = this.streams.some(stream => stream.pictures > 0);
        this.end();
        if (!this.wanted)
            return;
        if (!had)
            this.failures += 1;
        else
            this.failures = 0;
        const wait = RETRY[Math.min(this.failures, RETRY.length - 1)];
        this.ui.status(had ? 'The sender ended the session; looking for it again'
            : 'The sender refused: it may be busy with others; trying again');
        this.retry = setTimeout(() => this.seek(), wait);
    }

    end() {
        clearInterval(this.statistics);
        clearInterval(this.clockTimer);
        clearInterval(this.helloTimer);
        this.session = null;
        this.peer = null;
        this.channel = null;
        this.streams.forEach(stream => {
            stream.timers.forEach(clearTimeout);
            stream.video.srcObject = null;
        });
        this.audio.srcObject = null;
        this.ui.blank('No picture');
        this.ui.kind('');
    }

    begin(peer) {
        this.peer = peer;
        peer.addEventListener('track', event => this.onTrack(event));
        peer.addEventListener('datachannel', event => {
            if (event.channel.label === 'dualstream')
                this.open(event.channel);
        });
        peer.addEventListener('connectionstatechange', () => {
            switch (peer.connectionState) {
            case 'connected':
                this.ui.status('Connected');
                this.ui.error(null);
                break;
            case 'disconnected':
                this.ui.status('The network does not answer; waiting for it');
                break;
            case 'failed':
                this.ui.error('No way through the network to the sender: is UDP blocked between here and there, or a TURN server needed?');
                if (this.session)
                    this.session.close();
                break;
            }
        });
        this.statistics = setInterval(() => this.measure().catch(() => {}), STATISTICS_INTERVAL);
    }

    onTrack({track, receiver}) {
        // As soon as it can be.
        receiver.jitterBufferTarget = 0;
        receiver.playoutDelayHint = 0;
        const media = new MediaStream([track]);
        if (track.kind === 'audio') {
            this.audio.srcObject = media;
            this.hear();
            return;
        }
        const index = this.peer.getTransceivers()
            .filter(other => other.receiver.track.kind === 'video')
            .findIndex(other => other.receiver === receiver);
        const stream = this.streams[index];
        if (!stream)
            return;
        this.videos = Math.max(this.videos, index + 1);
        stream.video.srcObject = media;
        stream.video.play().catch(() => {});
        if (index === this.display)
            this.show(stream);
    }

    hear() {
        this.audio.muted = !this.ui.element('sound').checked;
        if (this.audio.srcObject)
            this.audio.play().catch(() => this.ui.status('Press Stop and Start for sound'));
    }

    show(stream) {
        for (const other of this.streams)
            other.video.classList.toggle('shown', other === stream);
    }

    // The data channel.

    open(channel) {
        this.channel = channel;
        const hello = () => this.say({hello: {version: VERSION}});
        channel.onmessage = event => this.onMessage(event.data);
        const opened = () => {
            hello();
            this.helloTimer = setInterval(() => {
                if (this.welcome)
                    clearInterval(this.helloTimer);
                else
                    hello();
            }, HELLO_INTERVAL);
            this.askTime();
            this.clockTimer = setInterval(() => this.askTime(), CLOCK_INTERVAL);
        };
        if (channel.readyState === 'open')
            opened();
        else
            channel.onopen = opened;
    }

    say(message) {
        if (this.channel?.readyState === 'open')
            this.channel.send(JSON.stringify(message));
    }

    onMessage(text) {
        let message;
        try {
            message = JSON.parse(text);
        } catch {
            return;
        }
        if (message.welcome)
            this.welcome = true;
        if (message.display)
            this.announce(message.display);
        if (message.clock)
            this.onTime(message.clock);
    }

    announce({stream, rtp, generation}) {
        this.say({shown: {generation}});
        // Said again, or overtaken by a newer one.
        const age = this.generation === null ? 1 : (generation - this.generation) & 255;
        if (age === 0 || age > 127)
            return;
        this.generation = generation;
        this.announced = {stream, rtp};
        const waiting = this.streams[stream];
        if (waiting && waiting.rtp !== null && signed(waiting.rtp - rtp) >= 0)
            this.change();
    }

    /// The first picture of the new display stream is on the screen, below the
    /// last one of the former: from now on above it.
    change() {
        const stream = this.streams[this.announced.stream];
        this.announced = null;
        this.show(stream);
        if (stream.index === this.display)
            return;
        const former = this.streams[this.display];
        this.display = stream.index;
        this.switches += 1;
        if (former.rtp !== null)
            this.complete(former);
    }

    complete(stream) {
        stream.timers.forEach(clearTimeout);
        const {index, rtp} = stream;
        const say = () => this.say({complete: {stream: index, rtp}});
        this.completes += 1;
        say();
        stream.timers = AGAIN.map(delay => setTimeout(say, delay));
    }

    // Pictures.

    follow(stream) {
        const seen = (now, metadata) => {
            stream.video.requestVideoFrameCallback(seen);
            if (this.session)
                this.onPicture(stream, metadata);
        };
        stream.video.requestVideoFrameCallback(seen);
    }

    onPicture(stream, metadata) {
        stream.pictures += 1;
        const rtp = metadata.rtpTimestamp ?? null;
        stream.rtp = rtp;
        const {announced} = this;
        if (announced?.stream === stream.index && rtp !== null && signed(rtp - announced.rtp) >= 0)
            this.change();
        if (stream.index === this.display) {
            this.ui.blank(null);
            this.freezes.shown(metadata.presentationTime);
            this.time(stream, metadata);
        } else if (rtp !== null && this.welcome) {
            this.complete(stream);
        }
    }

    /// Latency of a picture by the sender's clock.
    time(stream, {rtpTimestamp, expectedDisplayTime}) {
        const known = this.captured[stream.index];
        if (!known || !this.clock || rtpTimestamp === undefined)
            return;
        const captured = known.at + signed(rtpTimestamp - known.rtp) / VIDEO_RATE;
        const latency = wall(expectedDisplayTime) + this.clock.offset - captured;
        this.latencies.push(latency);
        this.allLatencies.push(latency);
        if (this.allLatencies.length > 20000)
            this.allLatencies.shift();
    }

    // The sender's clock.

    askTime() {
        const id = (this.clockId = ((this.clockId ?? 0) + 1) % 2 ** 32);
        this.asked.set(id, wall(performance.now()));
        if (this.asked.size > CLOCKS)
            this.asked.delete(this.asked.keys().next().value);
        this.say({clock: {id}});
    }

    onTime({id, received, sent, captured}) {
        const now = wall(performance.now());
        const asked = this.asked.get(id);
        for (const {stream, rtp, at} of captured ?? []) {
            if (stream < 2)
                this.captured[stream] = {rtp, at};
        }
        if (asked === undefined)
            return;
        this.asked.delete(id);
        const rtt = now - asked - (sent - received);
        const offset = ((received - asked) + (sent - now)) / 2;
        this.clocks.push({rtt, offset});
        if (this.clocks.length > CLOCKS)
            this.clocks.shift();
        // The one that waited least says most.
        this.clock = this.clocks.reduce((best, one) => one.rtt < best.rtt ? one : best);
    }

    // Figures.

    async measure() {
        if (!this.peer)
            return;
        const sums = {bytes: 0, received: 0, lost: 0, fec: 0, again: 0, nacks: 0, plis: 0, decoded: 0};
        let rtt = null;
        let hold = 0;
        let emitted = 0;
        const perStream = [];
        const statistics = await this.peer.getStats();
        statistics.forEach(s => {
            if (s.type === 'candidate-pair' && s.nominated && s.currentRoundTripTime !== undefined)
                rtt = s.currentRoundTripTime * 1000;
            if (s.type !== 'inbound-rtp' || s.kind !== 'video')
                return;
            sums.bytes += s.bytesReceived + (s.headerBytesReceived ?? 0);
            sums.received += s.packetsReceived;
            sums.lost += s.packetsLost;
            sums.fec += s.fecPacketsReceived ?? 0;
            sums.again += s.retransmittedPacketsReceived ?? 0;
            sums.nacks += s.nackCount ?? 0;
            sums.plis += s.pliCount ?? 0;
            sums.decoded += s.framesDecoded ?? 0;
            hold += s.jitterBufferDelay ?? 0;
            emitted += s.jitterBufferEmittedCount ?? 0;
            perStream.push({ssrc: s.ssrc, decoded: s.framesDecoded, freezes: s.freezeCount, fps: s.framesPerSecond,
                hold: s.jitterBufferDelay / s.jitterBufferEmittedCount * 1000, plis: s.pliCount});
        });
        const now = performance.now();
        const before = this.before;
        this.before = {now, hold, emitted, ...sums};
        if (!before)
            return;
        const seconds = (now - before.now) / 1000;
        const arrived = sums.received - before.received;
        const lost = Math.max(0, sums.lost - before.lost);
        const mean = this.latencies.length
            ? this.latencies.reduce((a, b) => a + b) / this.latencies.length : null;
        const pictures = this.latencies.length;
        this.latencies = [];
        const bitrate = (sums.bytes - before.bytes) * 8 / seconds;
        this.plots.bitrate.push(bitrate);
        this.plots.latency.push(mean);
        this.plots.rtt.push(rtt);
        this.plots.loss.push(arrived + lost > 0 ? lost / (arrived + lost) : null);
        this.plots.freezes.push(this.freezes.count);
        this.plots.switches.push(this.switches);
        const dual = this.generation !== null && this.videos === 2;
        this.ui.kind(dual ? 'dual stream' : this.videos ? 'single stream' : '');
        const held = emitted > before.emitted ? (hold - before.hold) / (emitted - before.emitted) * 1000 : null;
        const {videoWidth, videoHeight} = this.streams[this.display].video;
        facts([
            ['picture', videoWidth ? `${videoWidth} × ${videoHeight}, stream ${this.display}` : 'none yet'],
            ['decoded', `${sums.decoded} frames, ${pictures ? (pictures / seconds).toFixed(0) : 0} a second shown`],
            ['held back by the browser', held === null ? '–' : ms(held)],
            ['repaired', `${sums.again} packets sent again, ${sums.nacks} asked for, ${sums.fec} of FEC`],
            ['asked for a key frame', `${sums.plis} times`],
            ['frozen', `${(this.freezes.duration / 1000).toFixed(1)} s in all`],
            ['said complete', `${this.completes} frames`],
        ]);
        this.figures = {...sums, rtt, bitrate, held, dual, perStream};
    }

    /// All that is known, for tests.
    report() {
        const sorted = [...this.allLatencies].sort((a, b) => a - b);
        const at = share => sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : null;
        return {
            ...this.figures,
            wanted: this.wanted,
            connection: this.peer?.connectionState ?? null,
            videos: this.videos,
            display: this.display,
            pictures: this.streams.map(stream => stream.pictures),
            switches: this.switches,
            completes: this.completes,
            freezes: this.freezes.count,
            frozen: this.freezes.duration,
            longest: this.freezes.longest,
            latency: {count: sorted.length, p50: at(.5), p95: at(.95), p97: at(.97), max: at(1)},
            clock: this.clock,
            sound: this.audio.srcObject !== null,
            status: this.ui.element('status').textContent,
            error: this.ui.element('error').textContent,
        };
    }
}
