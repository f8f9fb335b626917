// SPDX-License-Identifier: Apache-2.0
//! What of the man page is made from elsewhere: OPTIONS from the help of the program, DIAGNOSTICS
//! from docs/troubleshooting.md.

use std::collections::BTreeSet;

use clap::Arg;
use clap::Command;

/// Of a line of roff, where there is a space to break it at.
const WIDTH: usize = 100;
/// The heading of COMMAND, to which clap gives one that says less.
const COMMAND: &str = "Command";

/// The words that stand out wherever they are.
struct Words {
    /// `-x` and `--exe`.
    options: BTreeSet<String>,
    /// The sections of tcpconnect(8).
    sections: BTreeSet<String>,
    /// The fields of tcpconnect-json(5) that could be nothing else.
    fields: BTreeSet<String>,
    program: String,
}

/// The section OPTIONS of tcpconnect(8), without its heading. Of both pages it knows what there is
/// to point to.
pub fn options(command: &mut Command, page: &str, json_page: &str) -> String {
    let shown: Vec<Arg> = command.get_arguments().filter(|a| !a.is_hide_set()).cloned().collect();
    let names = shown.iter().flat_map(|a| [short(a), long(a)]).flatten();
    let after = |page: &str, request: &str| -> BTreeSet<String> {
        page.lines().filter_map(|line| line.strip_prefix(request)).map(str::to_owned).collect()
    };
    let mut fields = after(json_page, ".B ");
    fields.retain(|field| field.contains('_'));
    let sections = after(page, ".SH ");
    let program = command.get_name().to_owned();
    let words = Words { options: names.collect(), sections, fields, program };
    let mut headings: Vec<&str> = Vec::new();
    for heading in shown.iter().filter_map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let about = command.get_long_about().expect("a description").to_string();
    let about: Vec<&str> = about.split("\n\n").skip(1).collect();
    let whose = |text: &str| {
        let (first, _) = text.split_once(": ")?;
        headings.iter().copied().find(|heading| *heading == first)
    };
    let general = about.iter().copied().filter(|text| whose(text).is_none());
    let mut out = words.paragraphs(general, ".PP", &[]);
    for heading in headings.iter().copied() {
        out += &format!(".SS {heading}\n");
        let notes = about.iter().filter(|text| whose(text) == Some(heading));
        let notes = notes.map(|text| sentence(&text[heading.len() + 2..]));
        let notes: Vec<String> = notes.collect();
        out += &words.paragraphs(notes.iter().map(String::as_str), ".PP", &[]);
        for arg in shown.iter().filter(|a| a.get_help_heading() == Some(heading)) {
            out += &words.entry(arg, &names_of(arg));
        }
    }
    let usage = command.render_usage().to_string();
    let positional = shown.iter().find(|a| a.is_positional()).expect("COMMAND");
    out + &format!(".SS {COMMAND}\n") + &words.entry(positional, &after_dashes(&usage))
}

/// With a capital at the beginning.
fn sentence(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}

fn short(arg: &Arg) -> Option<String> {
    arg.get_short().map(|name| format!("-{name}"))
}

fn long(arg: &Arg) -> Option<String> {
    arg.get_long().map(|name| format!("--{name}"))
}

fn bold(text: &str) -> String {
    format!(r"\fB{}\fR", literal(text))
}

fn value_names(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ")
}

/// `-p, --pid PID[,PID...]`, with its fonts.
fn names_of(arg: &Arg) -> String {
    let names: Vec<_> = [short(arg), long(arg)].into_iter().flatten().collect();
    let names = names.iter().map(|name| bold(name)).collect::<Vec<_>>().join(", ");
    if !arg.get_action().takes_values() {
        return names;
    }
    let mut value = value_names(arg);
    if arg.get_value_delimiter().is_some() {
        value = value.replace(']', "...]");
    }
    let value = in_italics(&value, |word| word.chars().all(|c| c.is_ascii_uppercase()));
    match arg.get_num_args().is_some_and(|n| n.min_values() == 0) {
        true => format!("{names}[={value}]"),
        false => format!("{names} {value}"),
    }
}

/// What the usage has between its last pair of brackets: `-- COMMAND [ARGS]...`.
fn after_dashes(usage: &str) -> String {
    let (_, rest) = usage.trim_end().split_once("[-- ").expect("a command in the usage");
    let rest = rest.strip_suffix(']').expect("an end of the usage");
    let rest = in_italics(rest, |word| word.chars().all(|c| c.is_ascii_uppercase()));
    format!("{} {rest}", bold("--"))
}

/// Those runs of letters, digits and underscores that are `wanted`.
fn in_italics(text: &str, wanted: impl Fn(&str) -> bool) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let run = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(run);
        match !word.is_empty() && wanted(word) {
            true => out += &format!(r"\fI{word}\fR"),
            false => out += word,
        }
        let other = after.find(is_part).unwrap_or(after.len());
        out += &after[..other];
        rest = &after[other..];
    }
    out
}

/// As it is, for somebody who copies it: no hyphen, no typographic quote.
fn literal(text: &str) -> String {
    let text = text.replace('\\', r"\e").replace('-', r"\-");
    let (mut out, mut chars) = (String::new(), text.chars().peekable());
    while let Some(c) = chars.next() {
        // As in user's, users'.
        let is_inside = chars.peek().is_some_and(char::is_ascii_alphabetic);
        let is_apostrophe =
            out.ends_with('s') || is_inside && out.ends_with(|c: char| c.is_ascii_alphabetic());
        match c {
            '\'' if !is_apostrophe => out += r"\(aq",
            _ => out.push(c),
        }
    }
    out
}

/// A hyphen between words may be one that is broken at, and looks like one.
fn prose(word: &str) -> String {
    let mut parts = word.split('-');
    let first = parts.next().unwrap_or_default();
    let is_word = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric());
    let is_prose = !first.is_empty()
        && is_word(first)
        && parts.all(|part| is_word(part) && part.starts_with(|c: char| c.is_ascii_lowercase()));
    match is_prose {
        true => word.to_owned(),
        false => literal(word),
    }
}

impl Words {
    /// One option: its names, then all there is to say.
    fn entry(&self, arg: &Arg, names: &str) -> String {
        let id = arg.get_id();
        let text = arg.get_long_help().unwrap_or_else(|| panic!("{id} has no long help"));
        let text = text.to_string();
        let is_flag = !arg.get_action().takes_values();
        let own = if is_flag { String::new() } else { value_names(arg) };
        let own = own.split(|c: char| !c.is_ascii_alphanumeric());
        let own: Vec<&str> = own.chain(["COMMAND"]).collect();
        let mut out = format!(".TP\n{names}\n");
        out += &self.paragraphs(text.split("\n\n"), ".IP", &own);
        let values = arg.get_possible_values();
        if !is_flag && !values.is_empty() {
            let default = arg.get_default_values();
            let items = values.iter().map(|value| {
                let (name, help) = (value.get_name(), value.get_help());
                let help = help.unwrap_or_else(|| panic!("{name} of {id} has no help"));
                let is_default = default.iter().any(|d| d == name);
                (name.to_owned(), format!("{help}{}", if is_default { " (default)" } else { "" }))
            });
            out += &self.list(&items.collect::<Vec<_>>(), &own);
        }
        out
    }

    fn paragraphs<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a str>,
        between: &str,
        own: &[&str],
    ) -> String {
        let mut out = String::new();
        for text in texts {
            let items = text.lines().map(|line| line.strip_prefix("- ")?.split_once(": "));
            if let Some(items) = items.collect::<Option<Vec<_>>>() {
                let items = items.into_iter().map(|(word, text)| (word.into(), text.into()));
                out += &self.list(&items.collect::<Vec<_>>(), own);
                continue;
            }
            assert!(!text.contains('\n'), "neither a paragraph nor a list: {text}");
            if !out.is_empty() {
                out += &format!("{between}\n");
            }
            out += &self.filled(text, own);
        }
        out
    }

    fn list(&self, items: &[(String, String)], own: &[&str]) -> String {
        let width = items.iter().map(|(word, _)| word.len()).max().unwrap_or_default() + 2;
        let mut out = String::from(".RS\n");
        for (word, text) in items {
            out += &format!(".TP {width}\n{}\n{}", bold(word), self.filled(text, own));
        }
        out + ".RE\n"
    }

    /// In lines, of which none goes on behind the end of a sentence.
    fn filled(&self, text: &str, own: &[&str]) -> String {
        let mut lines = vec![String::new()];
        for (word, ends) in self.styled(text, own) {
            let line = lines.last_mut().expect("a line");
            if line.is_empty() {
                *line = word;
            } else if line.len() + 1 + word.len() > WIDTH {
                lines.push(word);
            } else {
                *line += &format!(" {word}");
            }
            if ends {
                lines.push(String::new());
            }
        }
        lines.retain(|line| !line.is_empty());
        // What begins so would be a request.
        let guard = |line: &str| if line.starts_with(['.', '\'']) { r"\&" } else { "" };
        lines.iter().map(|line| format!("{}{line}\n", guard(line))).collect()
    }

    /// Each word with its fonts, and whether a sentence ends with it.
    fn styled(&self, text: &str, own: &[&str]) -> Vec<(String, bool)> {
        let mut out = Vec::new();
        let mut is_quoted = false;
        let mut words = text.split(' ');
        while let Some(word) = words.next() {
            let bare = word.trim_end_matches(')');
            let mut ends = bare.ends_with(['.', '?']) && !bare.ends_with("...");
            let quotes = word.matches('"').count();
            let mut styled = match is_quoted || quotes > 0 {
                true => literal(word),
                false => self.word(word, own),
            };
            is_quoted ^= quotes % 2 == 1;
            // The page needs not say of itself which one it is.
            let mut after = words.clone();
            let is_name = word.chars().all(|c| c.is_ascii_uppercase());
            let leads = is_name && after.next() == Some("in");
            let page = leads.then(|| after.next()).flatten();
            if let Some(rest) = page.and_then(|page| page.strip_prefix("tcpconnect(8)")) {
                assert!(self.sections.contains(word), "tcpconnect(8) has no section {word}");
                (styled, ends) = (bold(word) + rest, rest.ends_with('.'));
                words = after;
            }
            out.push((styled, ends && !is_quoted));
        }
        out
    }

    /// What stands around a word stays as it is.
    fn word(&self, word: &str, own: &[&str]) -> String {
        let core = word.trim_start_matches('(');
        let (before, rest) = word.split_at(word.len() - core.len());
        if let Some((name, section)) = page(rest) {
            return format!("{before}{}{section}", bold(name));
        }
        let core = rest.trim_end_matches(['.', ',', ';', ':', '?', ')']);
        let (core, after) = rest.split_at(core.len());
        let is_option = core.len() > 1 && core.starts_with('-');
        let core = match core {
            _ if is_option => {
                let name = core.split('=').next().unwrap_or_default();
                assert!(self.options.contains(name), "there is no option {name}");
                bold(core)
            }
            _ if core == self.program || self.fields.contains(core) => bold(core),
            _ => in_italics(&prose(core), |word| own.contains(&word)),
        };
        format!("{before}{core}{after}")
    }
}

/// `errno(3);` as the page's name and the rest.
fn page(word: &str) -> Option<(&str, &str)> {
    let (name, rest) = word.split_once('(')?;
    let is_section = rest.as_bytes().first().is_some_and(|c| (b'1'..=b'8').contains(c));
    let is_page = !name.is_empty() && is_section && rest[1..].starts_with(')');
    is_page.then(|| word.split_at(name.len()))
}

/// docs/troubleshooting.md as the section DIAGNOSTICS, without its heading.
pub fn diagnostics(page: &str) -> String {
    let entries = page.split("\n## ").skip(1);
    let mut section = String::from("The dots stand for what differs.\n");
    for entry in entries {
        let (heading, text) = entry.split_once('\n').expect("a heading and a text");
        section += &format!(".TP\n.B {}\n", plain(&heading.replace('`', "")));
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.for_each(|line| section += &format!("{}\n", plain(line)));
    }
    section
}

/// A line of a page as one of the man page: of a link, its words.
fn plain(line: &str) -> String {
    let mut parts = line.split("](");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text += part.split_once(')').map_or("", |(_, rest)| rest);
    }
    let text = text.replace('[', "").replace('`', "\"").replace('…', "...");
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// As the text of an option `--who ADDR` of a small program.
fn rendered(text: &'static str) -> String {
    let who = Arg::new("who").long("who").value_name("ADDR").long_help(text);
    let who = who.help_heading("Now").action(clap::ArgAction::Set);
    let run = Arg::new("run").last(true).value_name("COMMAND").long_help("Run.");
    let command = Command::new("tool").long_about("What it is.").args([who, run]);
    let mut command = command.override_usage("tool [OPTIONS] [-- COMMAND [ARGS]...]");
    let section = options(&mut command, ".SH NAMES\n", ".B conn_id\n");
    let heading = ".SS Now\n.TP\n\\fB\\-\\-who\\fR \\fIADDR\\fR\n";
    let (text, command) = section.split_once(".SS Command\n").expect("a command");
    assert_eq!(command, ".TP\n\\fB\\-\\-\\fR \\fICOMMAND\\fR [\\fIARGS\\fR]...\nRun.\n");
    text.strip_prefix(heading).expect("the heading").to_owned()
}

#[test]
fn what_a_word_is_gives_its_font() {
    let cases = [
        ("With --who=x, of tool (--who).", r"With \fB\-\-who=x\fR, of \fBtool\fR (\fB\-\-who\fR)."),
        ("As [ADDR]:1, COMMAND; ADDRS.", r"As [\fIADDR\fR]:1, \fICOMMAND\fR; ADDRS."),
        ("As errno(3); accept(), TIME(s).", r"As \fBerrno\fR(3); accept(), TIME(s)."),
        ("The same conn_id; a user_id.", r"The same \fBconn_id\fR; a user_id."),
        ("See NAMES in tcpconnect(8), too.", r"See \fBNAMES\fR, too."),
        (r#"As "--none \x(3) ADDR" is."#, r#"As "\-\-none \ex(3) ADDR" is."#),
    ];
    for (text, page) in cases {
        assert_eq!(rendered(text), format!("{page}\n"), "{text}");
    }
}

#[test]
fn what_is_to_be_copied_has_no_typographic_sign() {
    let cases = [
        ("a comma-separated IPv4-mapped - 80-90", r"a comma-separated IPv4-mapped \- 80\-90"),
        ("a user's, users' '*.com' $'...'", r"a user's, users' \(aq*.com\(aq $\(aq...\(aq"),
    ];
    for (text, page) in cases {
        assert_eq!(rendered(text), format!("{page}\n"), "{text}");
    }
}

#[test]
fn sentences_paragraphs_and_lists_are_those_of_the_text() {
    let text = "One. Two \"...\" (three.) of it:\n\n- a: b\n- cd: e\n\n.Five.";
    let list = ".RS\n.TP 4\n\\fBa\\fR\nb\n.TP 4\n\\fBcd\\fR\ne\n.RE\n";
    let page = format!("One.\nTwo \"...\" (three.)\nof it:\n{list}.IP\n\\&.Five.\n");
    assert_eq!(rendered(text), page);
}

#[test]
#[should_panic(expected = "there is no option --whom")]
fn an_option_that_does_not_exist_is_not_in_the_page() {
    rendered("See --whom.");
}

#[test]
#[should_panic(expected = "tcpconnect(8) has no section HOOKS")]
fn a_section_that_does_not_exist_is_not_in_the_page() {
    rendered("See HOOKS in tcpconnect(8).");
}
