// SPDX-License-Identifier: Apache-2.0
//! The connects of a group, counted by their ends without a look at each row: `-c` of a day is
//! a matter of nine columns.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use parquet::file::metadata::RowGroupMetaData;

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

/// A column of texts, and what each of these means.
struct Meant<T> {
    chunk: Chunk,
    texts: Vec<T>,
}

impl<T: Copy> Meant<T> {
    /// The number of a row's text, and what it means.
    fn of(&mut self, row: usize) -> Result<Option<(u64, T)>> {
        let Some(number) = self.chunk.number(row)? else { return Ok(None) };
        Ok(self.texts.get(number).map(|&meant| (number as u64, meant)))
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
    let whole = |column| Chunk::whole(part, rows, column).map(|(chunk, _)| chunk);
    let count = rows_in(rows)?;
    let (Some(mut events), Some(mut results), Some(mut saddrs), Some(mut daddrs)) = (
        meant(whole(EVENT)?, event),
        meant(whole(RESULT)?, is_outcome),
        meant(whole(SADDR)?, address),
        meant(whole(DADDR)?, address),
    ) else {
        return Ok(None);
    };
    let (mut errors, mut ips, mut dports) = (whole(ERROR)?, whole(IP)?, whole(DPORT)?);
    let (mut times, mut latencies) = (whole(TS_NS)?, whole(LATENCY_US)?);
    let mut begun = match most_us {
        Some(most_us) => Some((most_us, whole(CONN_ID)?, whole(BEGAN_TS_NS)?)),
        None => None,
    };
    let mut flows = Counted::default();
    for row in 0..count {
        let (event, has_error) = (events.of(row)?, errors.has(row));
        let (result, latency) = (results.of(row)?, number(&mut latencies, row)?);
        let (saddr, daddr) = (saddrs.of(row)?, daddrs.of(row)?);
        let (ip, dport, time) =
            (number(&mut ips, row)?, number(&mut dports, row)?, number(&mut times, row)?);
        if let Some((most_us, ids, begun)) = &mut begun
            && took_us(ids.value(row)?, number(begun, row)?, time, latency) > *most_us
        {
            return Ok(None);
        }
        match (event.map(|(_, event)| event), result) {
            (Some(Row::Connect), _) if has_error => continue,
            (Some(Row::Connect), _) => {}
            (Some(Row::Result), Some((_, true))) if latency.is_some() => {}
            (Some(Row::Result), _) => return Ok(None),
            _ => continue,
        }
        let port = dport.and_then(|dport| u16::try_from(dport).ok());
        let (Some((to, Some(daddr))), Some(dport), Some(_)) = (daddr, port, time) else {
            return Ok(None);
        };
        if ip != Some(if daddr.is_ipv4() { 4 } else { 6 }) {
            return Ok(None);
        }
        let (from, saddr) = match saddr {
            Some((from, Some(saddr))) => (from + 1, saddr),
            Some((_, None)) => return Ok(None),
            None => (0, nowhere(daddr)),
        };
        let flow = flows.entry(from << 32 | to << 16 | u64::from(dport));
        flow.or_insert(Flow { saddr, daddr, dport, connects: 0 }).connects += 1;
    }
    Ok(Some(flows.into_values().collect()))
}

fn meant<T>(chunk: Chunk, of: fn(&str) -> T) -> Option<Meant<T>> {
    let texts = chunk.of_texts(of)?;
    Some(Meant { chunk, texts })
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

fn number(chunk: &mut Chunk, row: usize) -> Result<Option<i64>> {
    Ok(match chunk.value(row)? {
        Some(Value::Number(number)) => Some(number),
        _ => None,
    })
}
