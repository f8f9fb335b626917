// SPDX-License-Identifier: Apache-2.0
//! The walls of the house: which room may use which. Reads the imports of src, and fails
//! with a sentence that names file, line and rule.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Each room of src, what it knows, and the rooms that it may use. Those at the end are for
/// everybody.
const ROOMS: &[(&str, &str, &[&str])] = &[
    ("model", "plain values know nothing but one another", &[]),
    ("config", "options know the words, and nothing of the host", &["model"]),
    ("plan", "what a run needs follows from the options alone", &["config", "model"]),
    ("host", "what /proc says needs no options and no BPF", &["model"]),
    ("kernel", "BPF knows neither the tables nor the output", &["plan", "config", "model", "host"]),
    ("who", "tables know neither BPF nor the output", &["model", "host", "plan", "config"]),
    ("output", "output knows rows, not where they come from", &["model", "config"]),
    (
        "snapshot",
        "a snapshot traces nothing",
        &["host", "kernel", "model", "output", "config", "plan"],
    ),
    (
        "record",
        "who records knows lines, not what is traced",
        &["host", "output", "config", "model"],
    ),
    (
        "replay",
        "what was written is read without a look at this host",
        &["host", "model", "output", "config", "plan"],
    ),
    (
        "trace",
        "the loop knows all but main",
        &[
            "record", "replay", "snapshot", "kernel", "who", "output", "host", "plan", "config",
            "model",
        ],
    ),
    (
        "check",
        "what is looked at is what a run would use, and main alone asks for it",
        &["trace", "record", "snapshot", "kernel", "output", "host", "plan", "config", "model"],
    ),
    ("error", "it is for everybody", &[]),
    ("clock", "it is for everybody", &[]),
    ("escape", "it is for everybody", &[]),
    ("poll", "it is for everybody", &[]),
    ("stop", "it is for everybody", &[]),
];
const FOR_EVERYBODY: [&str; 5] = ["error", "clock", "escape", "poll", "stop"];

const MAX_LINES: usize = 600;
const MAX_FUNCTION: usize = 60;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of src") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_below(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A file of src, without its unit tests.
struct Source {
    /// From the project's folder.
    name: String,
    room: String,
    lines: Vec<String>,
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut sources = Vec::new();
    for path in files_below(&src, ".rs") {
        let below = path.strip_prefix(&src).expect("below src").to_string_lossy().into_owned();
        if below == "main.rs" || below == "lib.rs" || below.ends_with("tests.rs") {
            continue;
        }
        let room = below.split(['/', '.']).next().expect("a first part").to_owned();
        let text = fs::read_to_string(&path).expect("a source file");
        let own = text.split("\n#[cfg(test)]\n").next().expect("a first part");
        let lines = own.lines().map(str::to_owned).collect();
        sources.push(Source { name: format!("src/{below}"), room, lines });
    }
    sources
}

/// The rooms and modules that a line names: `crate::who::peers` is `who`.
fn named(line: &str) -> impl Iterator<Item = String> {
    let code = line.split("//").next().unwrap_or_default();
    let parts = code.split("crate::").skip(1);
    let words = |part: &str| -> String {
        part.chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect()
    };
    parts.map(words).collect::<Vec<_>>().into_iter()
}

#[test]
fn rooms_use_only_what_they_may() {
    let mut broken = Vec::new();
    for source in sources() {
        let Some((_, rule, may)) = ROOMS.iter().find(|(room, ..)| *room == source.room) else {
            broken.push(format!("{} is in no room", source.name));
            continue;
        };
        for (at, line) in source.lines.iter().enumerate() {
            for path in named(line) {
                let room = path.split(':').next().unwrap_or_default();
                let allowed = room == source.room
                    || may.contains(&room)
                    || FOR_EVERYBODY.contains(&room)
                    || !ROOMS.iter().any(|(known, ..)| *known == room);
                if !allowed {
                    let (name, at) = (&source.name, at + 1);
                    broken.push(format!("{name}:{at} may not use {path}: {rule}"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// A snapshot reads the kernel's list of open files, which is BPF, but traces nothing.
#[test]
fn a_snapshot_uses_no_more_of_the_kernel_than_its_list_of_files() {
    for source in sources().iter().filter(|source| source.room == "snapshot") {
        for path in source.lines.iter().flat_map(|line| named(line)) {
            let is_files = path.starts_with("kernel::files");
            let of_kernel = path.starts_with("kernel");
            assert!(!of_kernel || is_files, "{} uses {path}", source.name);
        }
    }
}

/// The rooms in an order in which each uses only those before it: no circle.
#[test]
fn there_is_no_circle_of_rooms() {
    let mut uses: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (room, _, may) in ROOMS {
        uses.insert(room, may.to_vec());
    }
    while !uses.is_empty() {
        let next = uses.iter().find(|(_, may)| may.iter().all(|used| !uses.contains_key(used)));
        let next = *next.unwrap_or_else(|| panic!("these use one another: {uses:?}")).0;
        uses.remove(next);
    }
}

#[test]
fn only_the_kernels_room_knows_libbpf() {
    for source in sources().iter().filter(|source| source.room != "kernel") {
        let at = source
            .lines
            .iter()
            .position(|line| line.split("//").next().unwrap_or_default().contains("libbpf"));
        if let Some(at) = at {
            panic!("{}:{} names libbpf: only src/kernel may", source.name, at + 1);
        }
    }
}

/// Length, name and file of each function.
fn functions(source: &Source) -> Vec<(usize, String)> {
    let starts = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "unsafe fn "];
    let (mut found, mut begun): (_, Option<(usize, String, usize)>) = (Vec::new(), None);
    for (at, line) in source.lines.iter().enumerate() {
        let words = line.trim_start();
        let indent = line.len() - words.len();
        if begun.is_none() && starts.iter().any(|start| words.starts_with(start)) {
            let name = words.split_once("fn ").map_or("", |(_, rest)| rest);
            let name = name.split(['(', '<']).next().unwrap_or_default().to_owned();
            begun = Some((at, name, indent));
        }
        let ends = words.starts_with('}') || words.ends_with(';') || words.ends_with("}");
        if let Some((first, name, _)) = begun.take_if(|(.., of)| *of == indent && ends) {
            found.push((at - first + 1, name));
        }
    }
    found
}

#[test]
fn no_file_is_longer_than_a_reader_can_keep_in_mind() {
    for source in sources() {
        let (lines, name) = (source.lines.len(), source.name.as_str());
        assert!(lines <= MAX_LINES, "{name} has {lines} lines, more than {MAX_LINES}");
    }
}

#[test]
fn no_function_is_longer_than_a_screen() {
    for source in sources() {
        for (lines, function) in functions(&source) {
            let (file, most) = (&source.name, MAX_FUNCTION);
            assert!(lines <= most, "{function} of {file} has {lines} lines, more than {most}");
        }
    }
}

#[test]
fn the_printed_programs_are_all_there_are() {
    let printed = fs::read_to_string(root().join("src/kernel/source.rs")).expect("a source file");
    for path in files_below(&root().join("src/bpf"), "") {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        // Of --snapshot, and what bpftool makes of a kernel's types.
        if name == "files.bpf.c" || name == "vmlinux.h" {
            continue;
        }
        assert!(printed.contains(&format!("/{name}\"")), "--ebpf does not print src/bpf/{name}");
    }
}

/// Without it a program would be in each object, also where no run can load it.
#[test]
fn each_bpf_program_names_its_part() {
    let text = fs::read_to_string(root().join("src/bpf/tcpconnect.bpf.c")).expect("a source file");
    let programs = text.split("SEC(\"").skip(1).filter(|program| !program.starts_with("license"));
    for program in programs {
        let name = program.split('"').next().unwrap_or_default();
        assert!(program.contains("ONLY_IN("), "the program of {name} is in all parts");
    }
}
