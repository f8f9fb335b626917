// SPDX-License-Identifier: Apache-2.0
//! The connects of a group, counted by their ends without a look at each row: `-c` of a day is
//! a matter of nine columns.

use std::collections::HashMap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
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
use super::piece::Part;
use crate::model::event::Flow;
use crate::model::event::Outcome;

/// A text by where it is: in a column that is decoded each one of its dictionary is there once.
type At = (usize, usize);

fn at(text: &[u8]) -> At {
    (text.as_ptr().addr(), text.len())
}

/// `None`: a row is not as a recorder writes it, or began earlier than so long before its line, so
/// each has to be looked at.
pub(super) fn flows(
    part: &Arc<Part>,
    rows: &RowGroupMetaData,
    most_us: Option<u64>,
) -> Result<Option<Vec<Flow>>> {
    let whole = |column| Chunk::whole(part, rows, column);
    let (mut events, count) = whole(EVENT)?;
    let [mut errors, mut results, mut saddrs, mut daddrs] =
        [whole(ERROR)?.0, whole(RESULT)?.0, whole(SADDR)?.0, whole(DADDR)?.0];
    let [mut ips, mut dports, mut times, mut latencies] =
        [whole(IP)?.0, whole(DPORT)?.0, whole(TS_NS)?.0, whole(LATENCY_US)?.0];
    let mut begun = match most_us {
        Some(most_us) => Some((most_us, whole(CONN_ID)?.0, whole(BEGAN_TS_NS)?.0)),
        None => None,
    };
    let mut flows: HashMap<(Option<At>, At, i64), Flow, ahash::RandomState> = HashMap::default();
    for row in 0..count {
        let (event, error) = (events.bytes(row)?, errors.bytes(row)?);
        let (result, latency) = (results.bytes(row)?, number(&mut latencies, row)?);
        let (saddr, daddr) = (saddrs.bytes(row)?, daddrs.bytes(row)?);
        let (ip, dport, time) =
            (number(&mut ips, row)?, number(&mut dports, row)?, number(&mut times, row)?);
        if let Some((most_us, ids, begun)) = &mut begun
            && took_us(ids.bytes(row)?, number(begun, row)?, time, latency) > *most_us
        {
            return Ok(None);
        }
        match (event, result) {
            (Some(b"connect"), _) if error.is_some() => continue,
            (Some(b"connect"), _) => {}
            (Some(b"result"), Some(name)) if is_outcome(name) && latency.is_some() => {}
            (Some(b"result"), _) => return Ok(None),
            _ => continue,
        }
        let (Some(daddr), Some(ip), Some(dport), Some(_)) = (daddr, ip, dport, time) else {
            return Ok(None);
        };
        let known = flows.get_mut(&(saddr.map(at), at(daddr), dport));
        match known {
            Some(flow) if is_of(ip, flow.daddr) => flow.connects += 1,
            Some(_) => return Ok(None),
            None => {
                let Some(flow) = flow(saddr, daddr, dport).filter(|flow| is_of(ip, flow.daddr))
                else {
                    return Ok(None);
                };
                flows.insert((saddr.map(at), at(daddr), dport), flow);
            }
        }
    }
    Ok(Some(flows.into_values().collect()))
}

/// How long before its line a connect was made, which is of its outcome: as that says, or what the
/// connection is called, or how long it took. Of others it is nothing.
fn took_us(id: Option<&[u8]>, began: Option<i64>, time: Option<i64>, latency: Option<i64>) -> u64 {
    let [began, time, latency] =
        [began, time, latency].map(|number| number.map(i64::cast_unsigned));
    let (Some(time), Some(latency)) = (time, latency) else { return 0 };
    let id = id.and_then(|id| std::str::from_utf8(id).ok()?.split_once('-'));
    let by_id = id.and_then(|(_, began)| began.parse().ok());
    match began.or(by_id) {
        Some(began) => time.saturating_sub(began) / 1000,
        None => latency.min(time / 1000),
    }
}

fn is_outcome(name: &[u8]) -> bool {
    Outcome::ALL.iter().any(|outcome| outcome.name().as_bytes() == name)
}

fn is_of(ip: i64, addr: IpAddr) -> bool {
    ip == if addr.is_ipv4() { 4 } else { 6 }
}

/// With its first connect.
fn flow(saddr: Option<&[u8]>, daddr: &[u8], dport: i64) -> Option<Flow> {
    let address = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<IpAddr>().ok();
    let daddr = address(daddr)?;
    let nowhere: IpAddr = match daddr {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let saddr = saddr.map_or(Some(nowhere), address)?;
    Some(Flow { saddr, daddr, dport: u16::try_from(dport).ok()?, connects: 1 })
}

fn number(chunk: &mut Chunk, row: usize) -> Result<Option<i64>> {
    Ok(match chunk.value(row)? {
        Some(Value::Number(number)) => Some(number),
        _ => None,
    })
}
