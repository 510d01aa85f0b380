// SPDX-License-Identifier: MPL-2.0
//! Searches the masks of flexfec-core and writes them into its source.
//!
//! The same seed gives the same masks. All of them take about half an hour on
//! one processor: `cargo run --release -p flexfec-masks`.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use fastrand::Rng;
use flexfec_core::mask::{SIZES, Table};

mod profile;
mod sample;
mod search;

#[derive(Parser)]
#[command(about)]
struct Arguments {
    /// Where the tables go.
    #[arg(long, default_value = "plugins/flexfec/core/src/tables.rs")]
    output: PathBuf,
    /// Steps of the search for each mask of at most 12 packets; larger ones get
    /// an eighth.
    #[arg(long, default_value_t = 20_000)]
    steps: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the masks that there are and see anew what they leave.
    #[arg(long)]
    profiles: bool,
    /// Keep them but for one, e.g. `heavy:9:2:0.2` for 9 packets with 2 rows:
    /// that is searched again for this loss alone, and taken if it is better
    /// and neither worse than with a row less nor better than with one more.
    #[arg(long, value_name = "TABLE:MEDIA:FEC:LOSS", value_parser = Improve::parse)]
    improve: Vec<Improve>,
}

#[derive(Clone, Debug)]
struct Improve {
    table: Table,
    media: u32,
    fec: u32,
    loss: f64,
}

impl Improve {
    fn parse(text: &str) -> Result<Self, String> {
        let error = || format!("{text} is not TABLE:MEDIA:FEC:LOSS");
        let [table, media, fec, loss] = text.split(':').collect::<Vec<_>>()[..] else {
            return Err(error());
        };
        let named = |t: &Table| t.name().eq_ignore_ascii_case(table);
        Ok(Self {
            table: Table::ALL.into_iter().find(named).ok_or_else(error)?,
            media: media.parse().map_err(|_| error())?,
            fec: fec.parse().map_err(|_| error())?,
            loss: loss.parse().map_err(|_| error())?,
        })
    }

    /// The rows that are there, or better ones.
    fn rows(&self, steps: usize, rng: &mut Rng) -> search::Rows {
        let &Self {
            table,
            media,
            fec,
            loss,
        } = self;
        let rows = |fec: u32| table.rows_of(media as usize, fec as usize).to_vec();
        let known = rows(fec);
        let left = |rows: &search::Rows| search::exact(rows, media, loss);
        let problem = search::Problem::at(table, loss, media, fec, rng);
        let mut starts = vec![known.clone(), search::interleaved(media, fec)];
        starts.extend((2..=4.min(fec)).map(|w| search::random(media, fec, w, rng)));
        let found = problem.anneal(&starts, steps, rng);
        let value = left(&found);
        let above = fec == 1 || value <= left(&rows(fec - 1));
        let below = fec >= media || value >= left(&rows(fec + 1));
        if value < left(&known) && above && below {
            found
        } else {
            known
        }
    }
}

const SMALL: usize = 12;

/// The masks of one table for blocks of `media` packets, one for each number of
/// FEC packets, as source.
fn entries(table: Table, media: u32, arguments: &Arguments) -> String {
    let part = if media as usize > SMALL { 8 } else { 1 };
    let (steps, seed) = (arguments.steps / part, arguments.seed);
    let mut rng = Rng::with_seed(seed ^ u64::from(media) << 8 ^ (table as u64) << 16);
    let mut before: Option<search::Rows> = None;
    let mut source = String::new();
    for fec in 1..=table.most_fec(media as usize) as u32 {
        let wanted = |i: &&Improve| (i.table, i.media, i.fec) == (table, media, fec);
        if let Some(improve) = arguments.improve.iter().find(wanted) {
            let rows = improve.rows(steps, &mut rng);
            source += &line(table, media, &rows, &mut rng);
            continue;
        }
        if arguments.profiles || !arguments.improve.is_empty() {
            let rows = table.rows_of(media as usize, fec as usize);
            source += &line(table, media, rows, &mut rng);
            continue;
        }
        let problem = search::Problem::new(table, media, fec, before.as_ref(), &mut rng);
        let mut starts = vec![search::interleaved(media, fec)];
        starts.extend((2..=3.min(fec)).map(|w| search::random(media, fec, w, &mut rng)));
        if let Some(mut rows) = before.take() {
            rows.push(search::all(media));
            starts.push(rows);
        }
        let rows = problem.anneal(&starts, steps, &mut rng);
        source += &line(table, media, &rows, &mut rng);
        before = Some(rows);
    }
    source
}

fn line(table: Table, media: u32, rows: &[u64], rng: &mut Rng) -> String {
    let profile = profile::Profile::new(table, media, rows, rng);
    let hex: Vec<_> = rows.iter().map(|row| format!("{row:#x}")).collect();
    let (hex, profile::Profile { stuck, share }) = (hex.join(", "), profile);
    format!("    Entry {{ rows: &[{hex}], stuck: {stuck}, share: &{share:?} }},\n")
}

fn main() -> anyhow::Result<()> {
    let arguments = &Arguments::parse();
    let mut source = String::from(
        "// SPDX-License-Identifier: MPL-2.0\n\
         //! Made by `cargo run --release -p flexfec-masks`: not to be changed by hand.\n\n\
         use crate::mask::Entry;\n",
    );
    for table in Table::ALL {
        // The sizes are independent: the last ones take longest.
        let mut jobs: Vec<_> = SIZES.iter().rev().collect();
        let mut parts = Vec::new();
        while !jobs.is_empty() {
            let some: Vec<_> = jobs.drain(..jobs.len().min(2)).collect();
            std::thread::scope(|scope| {
                let threads: Vec<_> = some
                    .iter()
                    .map(|&&media| {
                        scope.spawn(move || (media, entries(table, media as u32, arguments)))
                    })
                    .collect();
                parts.extend(threads.into_iter().map(|t| t.join().expect("no panic")));
            });
        }
        parts.sort_by_key(|&(media, _)| media);
        let _ = write!(
            source,
            "\n#[rustfmt::skip]\npub static {}: &[Entry] = &[\n",
            table.name()
        );
        source.extend(parts.into_iter().map(|(_, part)| part));
        source.push_str("];\n");
    }
    std::fs::write(&arguments.output, source)
        .with_context(|| format!("cannot write {}", arguments.output.display()))
}
