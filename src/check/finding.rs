// SPDX-License-Identifier: Apache-2.0
//! What was found: one line of it, and all of it as text or as JSON.

use serde::Serialize;

use super::words;
use crate::config::Config;
use crate::escape::harmless;
use crate::model::cause::Cause;
use crate::output::line;

/// How much it takes away from this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    /// Nothing, and somebody may want to know it.
    Note,
    /// It could not be found out.
    Unknown,
    /// It works with less.
    Less,
    /// It does not work.
    Fail,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Unknown => "unknown",
            Severity::Less => "less",
            Severity::Fail => "fail",
        }
    }

    /// The status of a run that found nothing worse.
    fn status(self) -> u8 {
        match self {
            Severity::Ok | Severity::Note => 0,
            Severity::Unknown | Severity::Less => 1,
            Severity::Fail => 2,
        }
    }

    fn verdict(self) -> &'static str {
        match self.status() {
            0 => "All that these options need is there.",
            1 => "It works with less, see above.",
            _ => "It does not work, see above.",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// It never changes.
    pub id: &'static str,
    pub severity: Severity,
    /// Of what is not ok.
    pub cause: Option<Cause>,
    pub what: String,
}

impl Finding {
    pub fn ok(id: &'static str, what: impl Into<String>) -> Self {
        Finding { id, severity: Severity::Ok, cause: None, what: what.into() }
    }

    pub fn new(
        id: &'static str,
        severity: Severity,
        cause: Cause,
        what: impl Into<String>,
    ) -> Self {
        Finding { id, severity, cause: Some(cause), what: what.into() }
    }
}

#[derive(Serialize)]
struct Object<'a> {
    event: &'static str,
    id: &'static str,
    severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    means: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    todo: Option<&'static str>,
}

/// All of it.
pub struct Report {
    found: Vec<Finding>,
    is_json: bool,
    /// Values of options, which are nobody else's business.
    values: Vec<String>,
}

impl Report {
    pub fn new(config: &Config, found: Vec<Finding>) -> Self {
        Report { found, is_json: config.json.is_some(), values: values(config) }
    }

    fn worst(&self) -> Severity {
        self.found.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
    }

    pub fn status(&self) -> u8 {
        self.worst().status()
    }

    pub fn text(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self.is_json {
            true => self.found.iter().for_each(|finding| self.object(finding, &mut out)),
            false => out.extend(self.lines().into_bytes()),
        }
        out
    }

    fn object(&self, finding: &Finding, out: &mut Vec<u8>) {
        let words = finding.cause.map(words::of);
        let object = Object {
            event: "check",
            id: finding.id,
            severity: finding.severity,
            cause: finding.cause.map(Cause::name),
            what: &self.without_values(&finding.what),
            means: words.map(|words| words.means),
            todo: words.map(|words| words.todo),
        };
        line::put(out, &object);
    }

    /// Messages have them in quotes.
    fn without_values(&self, text: &str) -> String {
        let quoted = self.values.iter().map(|value| format!("'{value}'"));
        quoted.fold(text.to_owned(), |text, value| text.replace(&value, "'...'"))
    }

    fn lines(&self) -> String {
        let (ids, severities) = (14, 7);
        let mut text = String::new();
        for Finding { id, severity, cause, what } in &self.found {
            let severity = severity.name();
            text += &format!("{id:ids$}  {severity:severities$}  {}\n", harmless(what));
            if let Some(words) = cause.map(words::of) {
                let (indent, cause) =
                    (" ".repeat(ids + severities + 4), cause.map_or("", Cause::name));
                text += &format!("{indent}{} [{cause}]\n{indent}{}\n", words.means, words.todo);
            }
        }
        text + self.worst().verdict() + "\n"
    }
}

/// Paths and names that a message may have in quotes.
fn values(config: &Config) -> Vec<String> {
    let Config { filter, .. } = config;
    let paths = [&config.output, &config.btf, &filter.cgroupmap, &filter.mntnsmap];
    let paths = paths.into_iter().flatten().chain(&filter.cgroups);
    let folders = [&config.read, &config.past].into_iter().flatten().flat_map(|from| &from.paths);
    let paths = paths.chain(folders).chain(config.record.as_ref().map(|to| &to.dir));
    let command = config.command.iter().map(|word| word.to_string_lossy().into_owned());
    let netns = filter.netns.iter().cloned();
    let mut values: Vec<_> =
        paths.map(|path| path.display().to_string()).chain(command).chain(netns).collect();
    values.retain(|value| !value.is_empty());
    values
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::cli::Cli;

    fn report(words: &[&str], found: Vec<Finding>) -> Report {
        let words = ["tcpconnect", "--check"].into_iter().chain(words.iter().copied());
        Report::new(&Config::new(Cli::parse_from(words), false).unwrap(), found)
    }

    #[test]
    fn the_status_is_that_of_the_worst() {
        let of = |severity| Finding::new("hook", severity, Cause::Refused, "x");
        for (severities, status) in [
            (&[][..], 0),
            (&[Severity::Ok, Severity::Note], 0),
            (&[Severity::Less, Severity::Note], 1),
            (&[Severity::Unknown, Severity::Ok], 1),
            (&[Severity::Fail, Severity::Less], 2),
        ] {
            let found = severities.iter().map(|&severity| of(severity)).collect();
            assert_eq!(report(&[], found).status(), status, "{severities:?}");
        }
    }

    #[test]
    fn text_says_what_it_means_and_what_to_do() {
        let found = vec![
            Finding::ok("kernel", "6.12 \u{202e}x86_64"),
            Finding::new("btf", Severity::Fail, Cause::NoBtf, "none"),
        ];
        let words = words::of(Cause::NoBtf);
        let text = String::from_utf8(report(&[], found).text()).unwrap();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "kernel          ok       6.12 \\u{202e}x86_64",
                "btf             fail     none",
                &format!("{} [no-btf]", words.means),
                words.todo,
                "It does not work, see above.",
            ]
        );
    }

    #[test]
    fn json_has_no_value_of_an_option() {
        let what = "cannot write to --output '/home/alice/rows': Permission denied";
        let found = vec![Finding::new("output", Severity::Fail, Cause::Output, what)];
        let text = report(&["-j", "-o", "/home/alice/rows"], found).text();
        let object: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(object["what"], "cannot write to --output '...': Permission denied");
        assert_eq!((&object["event"], &object["id"]), (&"check".into(), &"output".into()));
        assert_eq!((&object["severity"], &object["cause"]), (&"fail".into(), &"output".into()));
    }
}
