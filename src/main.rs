// SPDX-License-Identifier: Apache-2.0
//! Parses, runs, and turns the result into an exit status. The only place that
//! prints a fatal error.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use tcpconnect::check;
use tcpconnect::clock::local_now_apart;
use tcpconnect::config::Config;
use tcpconnect::config::cli::Cli;
use tcpconnect::error::CommandError;
use tcpconnect::error::warn;
use tcpconnect::host::containers;
use tcpconnect::host::privilege;
use tcpconnect::kernel::source::EBPF;
use tcpconnect::replay;
use tcpconnect::snapshot;
use tcpconnect::trace;
use tcpconnect::trace::command::called_as;

/// As clap and BCC's argparse do.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if !e.use_stderr() => {
            // A closed pipe is no reason to complain.
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => return usage_error(&one_line(&e.render().to_string())),
    };
    if cli.ebpf {
        let _ = std::io::stdout().write_all(EBPF.as_bytes());
        return ExitCode::SUCCESS;
    }
    let tcpv4connect = called_as(std::env::args_os().next()) == "tcpv4connect";
    let mut config = Config::new(cli, tcpv4connect);
    if privilege::are_lent() {
        let writes_more = privilege::writes_more_than_caller();
        config = config.and_then(|config| config.within_lent_rights(writes_more));
    }
    let config = match config {
        Ok(config) if config.past.is_some() => config.at(&local_now_apart()),
        Ok(config) => config,
        Err(why) => return usage_error(&why),
    };
    if config.check {
        return check::run(&config);
    }
    let ended = match (&config.read, config.snapshot) {
        (Some(from), _) => replay::run(&config, from).map(|()| 0),
        (None, Some(wanted)) => snapshot::run(&config, wanted).map(|()| 0),
        // It is asked only where the answer matters: it reads two files of /proc and /sys.
        (None, None) if config.may_lack_containers && !containers::are_told() => {
            trace::run(&config.where_containers_are_unknown())
        }
        (None, None) => trace::run(&config),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            warn(&format!("tcpconnect: {e:#}"));
            ExitCode::from(e.downcast_ref::<CommandError>().map_or(1, |e| e.code))
        }
    }
}

fn usage_error(why: &str) -> ExitCode {
    match why.starts_with("Error: ") {
        // BCC's own words, which scripts may look for.
        true => warn(why),
        false => warn(&format!("tcpconnect: {why} (see tcpconnect --help)")),
    }
    ExitCode::from(USAGE)
}

/// clap's message without its blank lines, tips and usage.
fn one_line(message: &str) -> String {
    let lines = message.lines().take_while(|line| !line.trim().is_empty());
    let text: Vec<_> = lines.map(str::trim).collect();
    let text = text.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}
