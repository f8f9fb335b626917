// SPDX-License-Identifier: Apache-2.0
//! Where rows go: stdout, or the file of `--output`. Knows nothing of rows.

use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

use crate::cgroup::text_of;
use crate::config::Config;

pub struct Sink {
    pub file: File,
    pub name: String,
}

impl Sink {
    pub fn open(config: &Config) -> Result<Self> {
        let Some(path) = &config.output else {
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            let file = File::from(stdout.context("failed to open stdout")?);
            return Ok(Sink { file, name: "stdout".into() });
        };
        let name = path.display().to_string();
        match File::create(path) {
            Ok(file) => Ok(Sink { file, name }),
            Err(e) => bail!("cannot write to --output '{name}': {}", text_of(&e)),
        }
    }

    /// One write for the whole batch.
    pub fn write(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        let result = self.file.write_all(text);
        text.clear();
        result
    }
}

/// A closed pipe is the normal end of `tcpconnect | head`.
pub fn end_of_output(error: io::Error, name: &str) -> Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => bail!("failed to write to {name}: {}", text_of(&error)),
    }
}
