// SPDX-License-Identifier: Apache-2.0
//! One file of `--read`, or standard input: lines of JSON, or Parquet.

use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

#[cfg(feature = "parquet")]
use anyhow::anyhow;

use super::asked::Asked;
use crate::config::Config;
use crate::error::text_of;
use crate::error::warn;
#[cfg(feature = "parquet")]
use crate::model::file_name::FileName;
use crate::output::json::lines;
use crate::output::json::lines::TooLong;
use crate::output::json::mark;
use crate::output::json::read::MAX_LINE;
use crate::output::json::read::Printed;
use crate::output::json::read::ReadError;
use crate::output::json::read::read;
#[cfg(feature = "parquet")]
use crate::output::parquet;
#[cfg(feature = "parquet")]
use crate::output::parquet::read::columns_like;
#[cfg(feature = "parquet")]
use crate::output::parquet::read::columns_of_ends;

/// Lines that say nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unread {
    pub(super) damaged: u64,
    pub(super) unknown: u64,
}

impl Unread {
    pub(super) fn lose_rest(&mut self, name: &str, why: &str) {
        self.damaged += 1;
        warn(&format!("tcpconnect: --read '{name}': {why}; the rest of it is not read"));
    }

    fn count(&mut self, why: &ReadError) {
        match why {
            ReadError::Event => self.unknown += 1,
            _ => self.damaged += 1,
        }
    }
}

/// What of a file is looked at. Of lines it is all.
pub(super) struct Looked {
    #[cfg(feature = "parquet")]
    parquet: parquet::read::Asked,
}

impl Looked {
    /// Whether most of what is in Parquet files can be answered without their lines.
    pub(super) fn is_ahead(&self) -> bool {
        #[cfg(feature = "parquet")]
        return self.parquet.counts || self.parquet.addresses.is_some();
        #[cfg(not(feature = "parquet"))]
        false
    }

    pub(super) fn new(config: &Config, asked: &Asked, time: Range<u64>) -> Self {
        Looked {
            #[cfg(feature = "parquet")]
            parquet: parquet::read::Asked {
                addresses: asked.addresses(config),
                time,
                unused: unused(config, asked),
                without_ends: !asked.ends(),
                counts: config.mode != crate::config::Mode::Rows
                    && config.filter.wants_all()
                    && config.to_name.is_none()
                    && !config.failed,
            },
        }
    }
}

/// Columns that neither output nor filters look at.
#[cfg(feature = "parquet")]
fn unused(config: &Config, asked: &Asked) -> Vec<&'static str> {
    let (who, by_cgroup) = (config.who, config.filter.by_cgroup());
    // Rows of exec have executable and arguments in any case.
    let processes = config.procs.is_some();
    let of = |is_used: bool, names: &[&'static str]| match is_used {
        true => Vec::new(),
        false => names.to_vec(),
    };
    let like = |is_used: bool, prefixes: &[&str]| match is_used {
        true => Vec::new(),
        false => columns_like(prefixes),
    };
    let facts = ["ppid", "start", "process_id", "source"];
    [
        like(who.exe || processes, &["exe"]),
        like(who.args || processes, &["args"]),
        like(who.parents, &["parents"]),
        like(config.dns, &["query"]),
        like(config.peer.is_some(), &["peer_"]),
        like(who.container() || by_cgroup, &["container_", "pod", "compose_"]),
        of(asked.users(), &["user"]),
        of(asked.processes() || processes, &facts),
        of(who.cgroup_path || by_cgroup, &["cgroup"]),
        of(who.unit() || by_cgroup, &["unit"]),
        of(asked.ends(), &columns_of_ends()),
    ]
    .concat()
}

/// A file, as any thread may open it.
pub(super) enum Opened {
    Lines(File),
    #[cfg(feature = "parquet")]
    Parquet(anyhow::Result<Box<parquet::opened::Opened>>),
}

impl Opened {
    #[cfg(not(feature = "parquet"))]
    pub(super) fn of(file: File, _: &Path, _: &Looked) -> Self {
        Opened::Lines(file)
    }

    #[cfg(feature = "parquet")]
    pub(super) fn of(file: File, path: &Path, looked: &Looked) -> Self {
        if is_parquet(&file) {
            let opened = parquet::opened::Opened::open(file, &looked.parquet);
            return Opened::Parquet(opened.map(Box::new));
        }
        // A disk that was full or lost power leaves a name without bytes; a log may have none yet.
        match FileName::is_of_parquet(path)
            && file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == 0)
        {
            true => Opened::Parquet(Err(anyhow!("it is empty"))),
            false => Opened::Lines(file),
        }
    }

    /// Finds out before its turn what can be said without its lines.
    pub(super) fn look_ahead(&mut self) {
        #[cfg(feature = "parquet")]
        if let Opened::Parquet(Ok(opened)) = self {
            opened.look_ahead();
        }
    }
}

pub(super) enum Source {
    Lines(Lines),
    /// And whether it was told that some of it is damaged.
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet::read::Reader>, bool),
}

pub(super) struct Lines(lines::Lines<Box<dyn BufRead>>);

impl Source {
    pub(super) fn lines(from: impl Read + 'static) -> Self {
        Source::Lines(Lines(lines::Lines::new(Box::new(BufReader::new(from)))))
    }

    /// Of what cannot be read nothing comes.
    #[cfg_attr(
        not(feature = "parquet"),
        expect(unused_variables, reason = "of lines nothing is known before they are read")
    )]
    pub(super) fn of(opened: Opened, name: &str, looked: &Looked, unread: &mut Unread) -> Self {
        match opened {
            Opened::Lines(file) => Source::lines(file),
            #[cfg(feature = "parquet")]
            Opened::Parquet(opened) => match opened {
                Ok(opened) => {
                    let reader = parquet::read::Reader::new(*opened, &looked.parquet);
                    unread.damaged += reader.damaged();
                    Source::Parquet(Box::new(reader), false)
                }
                Err(e) => {
                    unread.lose_rest(name, &format!("{e:#}"));
                    Source::lines(std::io::empty())
                }
            },
        }
    }

    /// The next line that says something, and how many bytes it has.
    pub(super) fn next(&mut self, name: &str, unread: &mut Unread) -> Option<(Printed, usize)> {
        match self {
            Source::Lines(lines) => lines.next(name, unread),
            #[cfg(feature = "parquet")]
            Source::Parquet(reader, is_told) => loop {
                match reader.next()? {
                    Ok(line) => return Some(line),
                    Err(parquet::read::Unread::Line(e)) => unread.count(&e),
                    Err(parquet::read::Unread::Rows(rows, e)) => {
                        unread.damaged += rows;
                        if !std::mem::replace(is_told, true) {
                            warn(&format!(
                                "tcpconnect: --read '{name}': {e:#}; not all of its rows are read"
                            ));
                        }
                    }
                }
            },
        }
    }
}

#[cfg(feature = "parquet")]
fn is_parquet(file: &File) -> bool {
    use std::os::unix::fs::FileExt as _;

    let mut magic = [0; parquet::MAGIC.len()];
    file.read_exact_at(&mut magic, 0).is_ok() && magic == *parquet::MAGIC
}

/// Of which host a recording is.
pub(super) fn host(file: File) -> Option<String> {
    #[cfg(feature = "parquet")]
    if is_parquet(&file) {
        return parquet::footer::host(&file);
    }
    let mut line = Vec::new();
    BufReader::new(file.take(MAX_LINE)).read_until(b'\n', &mut line).ok()?;
    mark::host(&line)
}

impl Lines {
    fn next(&mut self, name: &str, unread: &mut Unread) -> Option<(Printed, usize)> {
        loop {
            let line = match self.0.read() {
                Ok(Some(Ok(line))) => line,
                Ok(Some(Err(TooLong))) => {
                    unread.damaged += 1;
                    continue;
                }
                Ok(None) => return None,
                Err(e) => {
                    unread.lose_rest(name, &text_of(&e));
                    return None;
                }
            };
            match std::str::from_utf8(line).map(read) {
                Ok(Ok(printed)) => return Some((printed, line.len())),
                Ok(Err(_)) if line.trim_ascii().is_empty() => {}
                Ok(Err(e)) => unread.count(&e),
                Err(_) => unread.damaged += 1,
            }
        }
    }
}
