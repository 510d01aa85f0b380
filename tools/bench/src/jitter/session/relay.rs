// SPDX-License-Identifier: MPL-2.0
//! Jitter and loss, between the end of the emulated link and the receiver.
//!
//! `rattan` has seeds and delays for each packet too, but counts every packet:
//! after the first repair, which comes when it comes, no two runs would lose
//! the same ones. Here each frame has a random sequence of its own, so the kth
//! packet of the nth frame fares alike in each run, whatever was asked for
//! before.
//!
//! A packet's extra delay has one of two shapes. Uniform: from 0 to twice what is
//! asked for, so that much about the mean, as netem's `delay 40ms 20ms`. Half
//! normal: |N|, N normal with mean 0, scaled such that its standard deviation is
//! the one asked for (the mean is 1.32 times that), with a tail to five times as
//! much. Queues only ever add delay, hence one side. Packets keep their order
//! unless told otherwise, as in a queue, so one that is slow holds up those behind
//! it, and a frame comes with its slowest packet; but media and retransmissions do
//! not wait for each other, or what a buffer asks for would change how the media
//! fares.
//! Media and retransmissions are delayed and lost; RTCP is not, either way.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::f64::consts::PI;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::MEDIA_PT;

/// How soon threads see that it is over.
const POLL: Duration = Duration::from_millis(50);
/// Packets that wait, beyond which they are lost as in any queue.
const LIMIT: usize = 10_000;
const MTU: usize = 1500;

/// Of the extra delay.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// From 0 to twice --jitter-ms
    Uniform,
    /// With --jitter-ms as its standard deviation
    HalfNormal,
}

#[derive(Clone, Copy, Debug)]
pub struct Impairment {
    pub jitter: Duration,
    pub shape: Shape,
    pub loss: f64,
    /// A fast packet overtakes a slow one.
    pub reorder: bool,
    pub seed: u64,
}

impl Impairment {
    /// Of the extra delay, where packets may overtake each other.
    pub fn mean(&self) -> Duration {
        self.jitter.mul_f64(match self.shape {
            Shape::Uniform => 1.0,
            Shape::HalfNormal => (2.0 / PI).sqrt() / (1.0 - 2.0 / PI).sqrt(),
        })
    }
}

/// When packets go on.
struct Schedule {
    impairment: Impairment,
    media: Stream,
    others: Stream,
}

struct Stream {
    frames: fastrand::Rng,
    /// Of this frame's packets.
    packets: fastrand::Rng,
    rtp_timestamp: Option<u32>,
    last: Duration,
}

impl Stream {
    fn new(mut frames: fastrand::Rng) -> Self {
        Self {
            packets: frames.fork(),
            frames,
            rtp_timestamp: None,
            last: Duration::ZERO,
        }
    }

    fn begin_frame(&mut self, rtp_timestamp: u32) {
        if self.rtp_timestamp.replace(rtp_timestamp) != Some(rtp_timestamp) {
            self.packets = self.frames.fork();
        }
    }
}

impl Schedule {
    fn new(impairment: Impairment) -> Self {
        let mut rng = fastrand::Rng::with_seed(impairment.seed);
        Self {
            impairment,
            others: Stream::new(rng.fork()),
            media: Stream::new(rng),
        }
    }

    /// Of a media packet with its RTP time stamp, or of another. `None`: it is
    /// lost.
    fn release(&mut self, arrival: Duration, media: Option<u32>) -> Option<Duration> {
        let stream = match media {
            Some(rtp_timestamp) => {
                self.media.begin_frame(rtp_timestamp);
                &mut self.media
            }
            None => &mut self.others,
        };
        // As many draws for each packet, lost or not.
        let lost = stream.packets.f64() < self.impairment.loss;
        let delay = match self.impairment.shape {
            Shape::Uniform => 2.0 * stream.packets.f64(),
            Shape::HalfNormal => half_normal(&mut stream.packets),
        };
        let delay = self.impairment.jitter.mul_f64(delay);
        if lost {
            return None;
        }
        let mut release = arrival + delay;
        if !self.impairment.reorder {
            release = release.max(stream.last);
            stream.last = release;
        }
        Some(release)
    }
}

/// |N| with a standard deviation of 1, by Box and Muller.
fn half_normal(rng: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    let normal = radius * (2.0 * PI * rng.f64()).cos();
    normal.abs() / (1.0 - 2.0 / PI).sqrt()
}

type Waiting = BinaryHeap<Reverse<(Duration, u64, Vec<u8>)>>;

/// Packets until their time has come, in the order of their times, then as they
/// came.
#[derive(Default)]
struct Queue {
    waiting: Waiting,
    count: u64,
}

impl Queue {
    fn push(&mut self, release: Duration, packet: Vec<u8>) {
        if self.waiting.len() < LIMIT {
            self.waiting.push(Reverse((release, self.count, packet)));
            self.count += 1;
        }
    }

    /// A packet whose time has come, or how long the next has to wait.
    fn pop(&mut self, now: Duration) -> Result<Vec<u8>, Option<Duration>> {
        match self.waiting.peek() {
            None => Err(None),
            Some(Reverse((release, ..))) if *release > now => Err(Some(*release - now)),
            Some(_) => self.waiting.pop().map_or(Err(None), |p| Ok(p.0.2)),
        }
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    over: AtomicBool,
    /// Where the sender is, once it has sent something.
    sender: OnceLock<IpAddr>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ports on the loopback interface, and the one in the sender's namespace.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ports {
    pub receiver_rtp: u16,
    pub receiver_rtcp: u16,
    pub sender_rtcp: u16,
}

pub struct Relay {
    pub rtp: u16,
    pub rtcp: u16,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

impl Relay {
    pub fn start(impairment: Impairment, ports: Ports) -> Result<Self> {
        let rtp = bind()?;
        let rtcp = bind()?;
        let shared = Arc::new(Shared::default());
        let mut relay = Self {
            rtp: rtp.local_addr()?.port(),
            rtcp: rtcp.local_addr()?.port(),
            shared: shared.clone(),
            threads: Vec::new(),
        };
        let (out, epoch) = (rtp.try_clone()?, Instant::now());
        let (taking, giving, control) = (shared.clone(), shared.clone(), shared);
        relay.threads = vec![
            std::thread::spawn(move || take(&taking, &rtp, Schedule::new(impairment), epoch)),
            std::thread::spawn(move || give(&giving, &out, local(ports.receiver_rtp), epoch)),
            std::thread::spawn(move || reflect(&control, &rtcp, ports)),
        ];
        Ok(relay)
    }
}

fn bind() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no free UDP port")?;
    socket.set_read_timeout(Some(POLL))?;
    Ok(socket)
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn take(shared: &Shared, socket: &UdpSocket, mut schedule: Schedule, epoch: Instant) {
    let mut packet = [0; MTU];
    while !shared.over.load(Ordering::Relaxed) {
        let Ok((size, from)) = socket.recv_from(&mut packet) else {
            continue;
        };
        let now = epoch.elapsed();
        shared.sender.get_or_init(|| from.ip());
        let Some(packet) = packet.get(..size) else {
            continue;
        };
        if let Some(release) = schedule.release(now, media_timestamp(packet)) {
            shared.queue().push(release, packet.to_vec());
            shared.more.notify_all();
        }
    }
}

/// Of a media packet.
fn media_timestamp(packet: &[u8]) -> Option<u32> {
    let head = packet.first_chunk::<8>()?;
    let timestamp = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    (head[1] & 0x7f == MEDIA_PT).then_some(timestamp)
}

fn give(shared: &Shared, socket: &UdpSocket, to: SocketAddr, epoch: Instant) {
    let mut queue = shared.queue();
    while !shared.over.load(Ordering::Relaxed) {
        match queue.pop(epoch.elapsed()) {
            Ok(packet) => {
                drop(queue);
                // A receiver that has gone needs nothing any more.
                let _ = socket.send_to(&packet, to);
                queue = shared.queue();
            }
            Err(wait) => {
                let wait = wait.map_or(POLL, |wait| wait.min(POLL));
                queue = match shared.more.wait_timeout(queue, wait) {
                    Ok((queue, _)) => queue,
                    Err(poisoned) => poisoned.into_inner().0,
                };
            }
        }
    }
}

/// RTCP, both ways.
fn reflect(shared: &Shared, socket: &UdpSocket, ports: Ports) {
    let mut packet = [0; MTU];
    while !shared.over.load(Ordering::Relaxed) {
        let Ok((size, from)) = socket.recv_from(&mut packet) else {
            continue;
        };
        let to = if from.ip() == Ipv4Addr::LOCALHOST {
            shared
                .sender
                .get()
                .map(|sender| SocketAddr::new(*sender, ports.sender_rtcp))
        } else {
            Some(local(ports.receiver_rtcp))
        };
        if let (Some(to), Some(packet)) = (to, packet.get(..size)) {
            let _ = socket.send_to(packet, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMPAIRMENT: Impairment = Impairment {
        jitter: Duration::from_millis(20),
        shape: Shape::HalfNormal,
        loss: 0.02,
        reorder: false,
        seed: 1,
    };

    fn at(n: u64) -> Duration {
        Duration::from_millis(10 * n)
    }

    #[test]
    fn jitter_and_loss_are_those_asked_for() {
        let mut schedule = Schedule::new(Impairment {
            reorder: true,
            ..IMPAIRMENT
        });
        let delays: Vec<f64> = (0..100_000)
            .filter_map(|n| Some(schedule.release(at(n), Some(n as u32 / 4))? - at(n)))
            .map(|delay| delay.as_secs_f64() * 1000.0)
            .collect();
        let mean = delays.iter().sum::<f64>() / delays.len() as f64;
        let variance = delays.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / delays.len() as f64;
        assert!((19.5..20.5).contains(&variance.sqrt()), "{variance}");
        assert!((26.0..27.0).contains(&mean), "1.32 times 20: {mean}");
        let told = IMPAIRMENT.mean().as_secs_f64() * 1000.0;
        assert!((told - mean).abs() < 0.2, "{told}");
        let lost = 100_000 - delays.len();
        assert!((1800..2200).contains(&lost), "{lost}");
    }

    #[test]
    fn media_fares_alike_whatever_else_is_sent() {
        let (mut a, mut b) = (Schedule::new(IMPAIRMENT), Schedule::new(IMPAIRMENT));
        let mut lost = 0;
        for frame in 0..1000u32 {
            let time = at(frame.into());
            for packet in 0..4 {
                let alone = a.release(time, Some(frame));
                assert_eq!(b.release(time, Some(frame)), alone, "{frame}, {packet}");
                lost += u32::from(alone.is_none());
            }
            // A repair, and a frame that is a key frame here.
            if frame % 3 == 0 {
                let _ = b.release(time, None);
            }
            if frame % 7 == 0 {
                for _ in 0..5 {
                    let _ = b.release(time, Some(frame));
                }
                // What holds up the next for a while is not meant here.
                b.media.last = a.media.last;
            }
        }
        assert!((40..120).contains(&lost), "2 % of 4000: {lost}");
        let mut other = Schedule::new(Impairment {
            seed: 2,
            ..IMPAIRMENT
        });
        assert_ne!(
            other.release(at(0), Some(0)),
            Schedule::new(IMPAIRMENT).release(at(0), Some(0))
        );
    }

    #[test]
    fn packets_overtake_only_where_they_may() {
        let order = |reorder| {
            let mut schedule = Schedule::new(Impairment {
                reorder,
                loss: 0.0,
                ..IMPAIRMENT
            });
            let mut queue = Queue::default();
            for n in 0..100u8 {
                let release = schedule.release(at(u64::from(n)) / 5, Some(n.into()));
                queue.push(release.expect("none is lost"), vec![n]);
            }
            let late = Duration::from_secs(10);
            std::iter::from_fn(|| queue.pop(late).ok()).collect::<Vec<_>>()
        };
        let kept = order(false);
        assert!(kept.is_sorted() && kept.len() == 100);
        let mut mixed = order(true);
        assert!(!mixed.is_sorted());
        mixed.sort();
        assert_eq!(mixed, kept, "the same packets");
    }

    #[test]
    fn packets_wait_until_their_time() {
        let mut queue = Queue::default();
        assert_eq!(queue.pop(at(0)), Err(None));
        queue.push(at(2), vec![2]);
        queue.push(at(1), vec![1]);
        queue.push(at(1), vec![3]);
        assert_eq!(queue.pop(at(0)), Err(Some(at(1))));
        assert_eq!(queue.pop(at(1)), Ok(vec![1]));
        assert_eq!(queue.pop(at(1)), Ok(vec![3]), "as they came");
        assert_eq!(queue.pop(at(1)), Err(Some(at(1))));
        assert_eq!(queue.pop(at(3)), Ok(vec![2]));
    }

    #[test]
    fn a_clean_link_adds_nothing_and_loses_nothing() {
        let mut schedule = Schedule::new(Impairment {
            jitter: Duration::ZERO,
            loss: 0.0,
            ..IMPAIRMENT
        });
        for n in 0..1000 {
            let media = (n % 2 == 0).then_some(n as u32);
            assert_eq!(schedule.release(at(n), media), Some(at(n)));
        }
    }
}
