// SPDX-License-Identifier: Apache-2.0
//! The connects of a group, counted by their ends without a look at each row: `-c` of a day is
//! a matter of nine columns.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use anyhow::bail;
use parquet::file::metadata::RowGroupMetaData;

use super::chunks::BATCH;
use super::chunks::Chunk;
use super::columns::BEGAN_TS_NS;
use super::columns::CONN_ID;
use super::columns::DADDR;
use super::columns::DPORT;
use super::columns::ERROR;
use super::columns::EVENT;
use super::columns::IP;
use super::columns::LATENCY_US;
use super::columns::RESULT;
use super::columns::SADDR;
use super::columns::TS_NS;
use super::columns::Value;
use super::pages::DAMAGED;
use super::pages::rows_in;
use super::piece::Part;
use super::write::MAX_ROWS;
use crate::model::event::Flow;
use crate::model::event::Outcome;
use crate::output::json::read::nowhere;

/// What a row is, by its event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Row {
    Connect,
    Result,
    Other,
}

/// A column, some rows of it at a time.
struct Numbers {
    chunk: Chunk,
    /// Of the rows that are decoded.
    rows: Vec<Option<i64>>,
}

impl Numbers {
    fn new(chunk: Chunk) -> Self {
        Numbers { chunk, rows: Vec::new() }
    }

    fn read(&mut self, rows: usize) -> Result<()> {
        self.chunk.read(rows)?;
        self.chunk.numbers(&mut self.rows)?;
        match self.rows.len() == rows {
            true => Ok(()),
            false => bail!(DAMAGED),
        }
    }
}

/// A column of texts, and what each of these means.
struct Meant<T> {
    numbers: Numbers,
    texts: Vec<T>,
}

impl<T: Copy> Meant<T> {
    /// The number of a row's text, and what it means.
    fn of(&self, row: usize) -> Option<(u64, T)> {
        let number = self.numbers.rows[row]?.cast_unsigned();
        self.texts.get(usize::try_from(number).ok()?).map(|&meant| (number, meant))
    }
}

/// Flows by the numbers of their addresses, each less than that of rows, and their ports.
type Counted = HashMap<u64, Flow, ahash::RandomState>;
const _: () = assert!(MAX_ROWS < 1 << 16);

/// `None`: a row is not as a recorder writes it, or began earlier than so long before its line, so
/// each has to be looked at.
pub(super) fn flows(
    part: &Arc<Part>,
    rows: &RowGroupMetaData,
    most_us: Option<u64>,
) -> Result<Option<Vec<Flow>>> {
    let chunk = |column| Chunk::begin(part, rows, column);
    let numbers = |column| chunk(column).map(Numbers::new);
    let (Some(events), Some(results), Some(saddrs), Some(daddrs)) = (
        meant(chunk(EVENT)?, event),
        meant(chunk(RESULT)?, is_outcome),
        meant(chunk(SADDR)?, address),
        meant(chunk(DADDR)?, address),
    ) else {
        return Ok(None);
    };
    let begun = match most_us {
        Some(most_us) => Some((most_us, chunk(CONN_ID)?, numbers(BEGAN_TS_NS)?)),
        None => None,
    };
    let mut connects = Connects {
        events,
        results,
        saddrs,
        daddrs,
        errors: chunk(ERROR)?,
        ips: numbers(IP)?,
        dports: numbers(DPORT)?,
        times: numbers(TS_NS)?,
        latencies: numbers(LATENCY_US)?,
        begun,
    };
    let (mut flows, mut left) = (Counted::default(), rows_in(rows)?);
    while left > 0 {
        let count = left.min(BATCH);
        left -= count;
        connects.read(count)?;
        for row in 0..count {
            let Some(found) = connects.of(row)? else { return Ok(None) };
            if let Some((key, flow)) = found {
                flows.entry(key).or_insert(flow).connects += 1;
            }
        }
    }
    Ok(Some(flows.into_values().collect()))
}

/// The columns that are looked at.
struct Connects {
    events: Meant<Row>,
    results: Meant<bool>,
    saddrs: Meant<Option<IpAddr>>,
    daddrs: Meant<Option<IpAddr>>,
    errors: Chunk,
    ips: Numbers,
    dports: Numbers,
    times: Numbers,
    latencies: Numbers,
    /// How long ago one may have begun, in microseconds, and what says when it did.
    begun: Option<(u64, Chunk, Numbers)>,
}

impl Connects {
    fn read(&mut self, rows: usize) -> Result<()> {
        self.errors.read(rows)?;
        self.events.numbers.read(rows)?;
        self.results.numbers.read(rows)?;
        self.saddrs.numbers.read(rows)?;
        self.daddrs.numbers.read(rows)?;
        for numbers in [&mut self.ips, &mut self.dports, &mut self.times, &mut self.latencies] {
            numbers.read(rows)?;
        }
        match &mut self.begun {
            Some((_, ids, begun)) => ids.read(rows).and_then(|()| begun.read(rows)),
            None => Ok(()),
        }
    }

    /// The connect of a row, if it is one; `None`: it has to be looked at. Each is asked for once, in
    /// their order.
    fn of(&mut self, row: usize) -> Result<Option<Option<(u64, Flow)>>> {
        let (time, latency) = (self.times.rows[row], self.latencies.rows[row]);
        if let Some((most_us, ids, begun)) = &mut self.begun
            && took_us(ids.value(row)?, begun.rows[row], time, latency) > *most_us
        {
            return Ok(None);
        }
        let (event, has_error) = (self.events.of(row), self.errors.has(row));
        match (event.map(|(_, event)| event), self.results.of(row)) {
            (Some(Row::Connect), _) if has_error => return Ok(Some(None)),
            (Some(Row::Connect), _) => {}
            (Some(Row::Result), Some((_, true))) if latency.is_some() => {}
            (Some(Row::Result), _) => return Ok(None),
            _ => return Ok(Some(None)),
        }
        let dport = self.dports.rows[row].and_then(|dport| u16::try_from(dport).ok());
        let (Some((to, Some(daddr))), Some(dport), Some(_)) = (self.daddrs.of(row), dport, time)
        else {
            return Ok(None);
        };
        if self.ips.rows[row] != Some(if daddr.is_ipv4() { 4 } else { 6 }) {
            return Ok(None);
        }
        let (from, saddr) = match self.saddrs.of(row) {
            Some((from, Some(saddr))) => (from + 1, saddr),
            Some((_, None)) => return Ok(None),
            None => (0, nowhere(daddr)),
        };
        let key = from << 32 | to << 16 | u64::from(dport);
        Ok(Some(Some((key, Flow { saddr, daddr, dport, connects: 0 }))))
    }
}

fn meant<T>(chunk: Chunk, of: fn(&str) -> T) -> Option<Meant<T>> {
    let texts = chunk.of_texts(of)?;
    Some(Meant { numbers: Numbers::new(chunk), texts })
}

fn event(name: &str) -> Row {
    match name {
        "connect" => Row::Connect,
        "result" => Row::Result,
        _ => Row::Other,
    }
}

fn is_outcome(name: &str) -> bool {
    Outcome::ALL.iter().any(|outcome| outcome.name() == name)
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// How long before its line a connect was made, which is of its outcome: as that says, or what the
/// connection is called, or how long it took. Of others it is nothing.
fn took_us(id: Option<Value>, began: Option<i64>, time: Option<i64>, latency: Option<i64>) -> u64 {
    let [began, time, latency] =
        [began, time, latency].map(|number| number.map(i64::cast_unsigned));
    let (Some(time), Some(latency)) = (time, latency) else { return 0 };
    let by_id = match id {
        Some(Value::Text(id)) => id.split_once('-').and_then(|(_, began)| began.parse().ok()),
        _ => None,
    };
    match began.or(by_id) {
        Some(began) => time.saturating_sub(began) / 1000,
        None => latency.min(time / 1000),
    }
}
