// SPDX-License-Identifier: Apache-2.0
//! Files that somebody made for whoever reads them: they claim more than there is, or unpack to more
//! than memory has. Their checksums are right. Each of them costs its own rows, one line, and no
//! more memory than a recording; all others are read.

use std::fmt::Write as _;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Cursor;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use bytes::Bytes;
use parquet::column::page::Page as Read;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::metadata::FileMetaData;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::metadata::ParquetMetaDataWriter;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::FileReader as _;
use parquet::file::serialized_reader::SerializedFileReader;
use serde_json::Value;
use tcpconnect::output::parquet::checksum;
use tcpconnect::output::parquet::read::Asked;
use tcpconnect::output::parquet::read::Reader;
use tcpconnect::output::parquet::sum_of_columns;
use tcpconnect::output::parquet::write::write;
use tempfile::TempDir;

use super::START;

/// What a reader may have, whatever it reads.
const MAX_MEMORY: i64 = 256 << 20;
const GB: i64 = 1 << 30;
const ROWS: usize = 3_000;

const DATA: i64 = 0;
const DICTIONARY: i64 = 2;
const PLAIN: i64 = 0;
const DELTA_BYTE_ARRAY: i64 = 7;
const RLE_DICTIONARY: i64 = 8;

fn varint(mut number: u64, to: &mut Vec<u8>) {
    while number > 0x7f {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn zigzag(number: i64, to: &mut Vec<u8>) {
    varint(((number << 1) ^ (number >> 63)).cast_unsigned(), to);
}

/// LZ4 of these bytes as they are.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut to = vec![if bytes.len() < 15 { (bytes.len() << 4) as u8 } else { 0xf0 }];
    if let Some(mut more) = bytes.len().checked_sub(15) {
        while more >= 255 {
            to.push(255);
            more -= 255;
        }
        to.push(more as u8);
    }
    to.extend(bytes);
    to
}

/// LZ4 of so many of these bytes over and over, behind others.
fn repeated(before: &[u8], times: usize) -> Vec<u8> {
    let mut to = packed(before);
    to[0] |= 0xf;
    to.extend([1, 0]);
    let mut more = times - before.len() - 5 - 19;
    while more >= 255 {
        to.push(255);
        more -= 255;
    }
    to.push(more as u8);
    to.extend(packed(&[b'a'; 5]));
    to
}

#[derive(Clone)]
struct Page {
    kind: i64,
    encoding: i64,
    values: i64,
    /// What it claims to have once it is unpacked.
    unpacked: i64,
    packed: Vec<u8>,
}

impl Page {
    fn of(kind: i64, encoding: i64, values: i64, bytes: &[u8]) -> Self {
        Page { kind, encoding, values, unpacked: bytes.len() as i64, packed: packed(bytes) }
    }

    fn header(&self) -> Vec<u8> {
        let mut to = Vec::new();
        let field = |number: i64, to: &mut Vec<u8>| {
            to.push(0x15);
            zigzag(number, to);
        };
        field(self.kind, &mut to);
        field(self.unpacked, &mut to);
        field(self.packed.len() as i64, &mut to);
        to.push(if self.kind == DATA { 0x2c } else { 0x4c });
        field(self.values, &mut to);
        field(self.encoding, &mut to);
        if self.kind == DATA {
            field(3, &mut to);
            field(3, &mut to);
        }
        to.extend([0, 0]);
        to
    }
}

#[derive(Clone)]
struct Column {
    name: String,
    pages: Vec<Page>,
    metadata: ColumnChunkMetaData,
}

impl Column {
    fn page(&mut self, kind: i64) -> &mut Page {
        self.pages.iter_mut().find(|page| page.kind == kind).expect("it has one")
    }
}

/// A file of one group, taken apart.
#[derive(Clone)]
struct Forged {
    columns: Vec<Column>,
    filter: Vec<u8>,
    rows: i64,
    metadata: ParquetMetaData,
    /// Changes what it says of its group.
    notes: fn(&mut Value),
}

fn log(rows: usize) -> String {
    let mut log = format!("{START}\n");
    for n in 0..rows {
        let _ = writeln!(
            log,
            "{{\"event\":\"connect\",\"time\":\"2026-11-26T10:00:01.{n:06}Z\",\"ts_ns\":{n},\
             \"pid\":{},\"comm\":\"c{}\",\"exe\":\"/bin/c{}\",\"exe_deleted\":false,\"ip\":4,\
             \"daddr\":\"10.0.0.{}\",\"dport\":{},\"conn_id\":\"{n}\",\"query_age_ms\":{}.5}}",
            n % 50,
            n % 50,
            n % 50,
            n % 200,
            n % 60_000,
            n % 9,
        );
    }
    log
}

fn written(rows: usize) -> Vec<u8> {
    let mut whole = Vec::new();
    write(&mut Cursor::new(log(rows)), &mut whole).unwrap();
    whole
}

impl Forged {
    fn of(whole: Vec<u8>) -> Self {
        let whole = Bytes::from(whole);
        let reader = SerializedFileReader::new(whole.clone()).unwrap();
        let metadata = reader.metadata().clone();
        let group = reader.get_row_group(0).unwrap();
        let column = |at: usize| Column {
            name: group.metadata().column(at).column_path().string(),
            metadata: group.metadata().column(at).clone(),
            pages: group
                .get_column_page_reader(at)
                .unwrap()
                .map(|page| of_read(page.unwrap()))
                .collect(),
        };
        let columns: Vec<_> = (0..group.num_columns()).map(column).collect();
        let daddr = columns.iter().find(|column| column.name == "daddr").unwrap();
        let at = daddr.metadata.bloom_filter_offset().unwrap() as usize;
        let len = daddr.metadata.bloom_filter_length().unwrap() as usize;
        let filter = whole[at..at + len].to_vec();
        let rows = group.metadata().num_rows();
        Forged { columns, filter, rows, metadata, notes: |_| {} }
    }

    fn column(&mut self, name: &str) -> &mut Column {
        self.columns.iter_mut().find(|column| column.name == name).expect("it is there")
    }

    fn file(&self) -> Vec<u8> {
        let mut bytes = b"PAR1".to_vec();
        let mut columns = Vec::new();
        for column in &self.columns {
            let (first, mut data, mut dictionary) = (bytes.len() as i64, bytes.len() as i64, None);
            for page in &column.pages {
                match page.kind {
                    DICTIONARY => dictionary = Some(bytes.len() as i64),
                    _ => data = bytes.len() as i64,
                }
                bytes.extend(page.header());
                bytes.extend(&page.packed);
            }
            let builder = column.metadata.clone().into_builder();
            columns.push(
                builder
                    .set_data_page_offset(data)
                    .set_dictionary_page_offset(dictionary)
                    .set_total_compressed_size(bytes.len() as i64 - first),
            );
        }
        let filter = bytes.len();
        bytes.extend(&self.filter);
        let columns = columns.into_iter().zip(&self.columns).map(|(builder, column)| {
            let is_daddr = column.name == "daddr";
            let at = is_daddr.then_some((filter as i64, self.filter.len() as i32));
            let builder = builder.set_bloom_filter_offset(at.map(|(at, _)| at));
            builder.set_bloom_filter_length(at.map(|(_, len)| len)).build().unwrap()
        });
        let group = self.metadata.row_group(0).clone().into_builder();
        let group = group.set_column_metadata(columns.collect()).set_num_rows(self.rows);
        let group = group.build().unwrap();
        let footer = self.footer(&bytes, filter, group);
        [bytes, footer].concat()
    }

    fn footer(&self, bytes: &[u8], filter: usize, group: RowGroupMetaData) -> Vec<u8> {
        let of_file = self.metadata.file_metadata();
        let mut pairs = of_file.key_value_metadata().unwrap().clone();
        let pair = pairs.iter_mut().find(|pair| pair.key == "tcpconnect").unwrap();
        let mut notes: Value = serde_json::from_str(pair.value.as_deref().unwrap()).unwrap();
        let of_group = &mut notes["groups"][0];
        of_group["offset"] = 0.into();
        of_group["len"] = bytes.len().into();
        of_group["filter"] = filter.into();
        of_group["sum"] = checksum(&bytes[..filter]).into();
        of_group["filter_sum"] = checksum(&bytes[filter..]).into();
        of_group["columns_sum"] = sum_of_columns(&group).into();
        (self.notes)(&mut notes);
        let notes = notes.to_string();
        let sum = checksum(notes.as_bytes()).to_string();
        pair.value = Some(notes);
        pairs.iter_mut().find(|pair| pair.key == "tcpconnect_sum").unwrap().value = Some(sum);
        let of_file = FileMetaData::new(
            of_file.version(),
            self.rows,
            of_file.created_by().map(str::to_owned),
            Some(pairs),
            of_file.schema_descr_ptr(),
            None,
        );
        let mut footer = Vec::new();
        let metadata = ParquetMetaData::new(of_file, vec![group]);
        ParquetMetaDataWriter::new(&mut footer, &metadata).finish().unwrap();
        footer
    }
}

fn of_read(page: Read) -> Page {
    match page {
        Read::DictionaryPage { buf, num_values, encoding, .. } => {
            Page::of(DICTIONARY, encoding as i64, num_values.into(), &buf)
        }
        Read::DataPage { buf, num_values, encoding, .. } => {
            Page::of(DATA, encoding as i64, num_values.into(), &buf)
        }
        Read::DataPageV2 { .. } => panic!("it writes none"),
    }
}

/// DELTA_BINARY_PACKED of as many numbers as it is told to claim, that are all the same but the first.
fn deltas(count: u64, first: i64, then: i64) -> Vec<u8> {
    let mut to = Vec::new();
    varint(128, &mut to);
    varint(4, &mut to);
    varint(count, &mut to);
    zigzag(first, &mut to);
    for block in 0..count.min(ROWS as u64).saturating_sub(1).div_ceil(128) {
        zigzag(if block == 0 { then - first } else { 0 }, &mut to);
        // No bits: each is the one before and the least difference.
        to.extend([0; 4]);
    }
    to
}

/// Each row has a value.
fn levels(rows: usize) -> Vec<u8> {
    let mut run = Vec::new();
    varint((rows as u64) << 1, &mut run);
    run.push(1);
    [&(run.len() as u32).to_le_bytes()[..], &run].concat()
}

/// By what a file does harm, and how.
type Case = (&'static str, Vec<u8>);

fn of_pages(good: &Forged) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut add = |name, change: &dyn Fn(&mut Forged)| {
        let mut forged = good.clone();
        change(&mut forged);
        cases.push((name, forged.file()));
    };
    add("a page of some bytes claims two gigabytes", &|f| {
        f.column("comm").page(DATA).unpacked = 2 * GB - 1;
    });
    add("a dictionary of some bytes claims two gigabytes", &|f| {
        f.column("comm").page(DICTIONARY).unpacked = 2 * GB - 1;
    });
    add("a page unpacks to a gigabyte", &|f| {
        let page = f.column("comm").page(DICTIONARY);
        (page.unpacked, page.packed) = (GB, repeated(b"\xff\xff\xff\x0f", GB as usize));
    });
    add("forty dictionaries unpack to thirty megabytes each", &|f| {
        let of_text =
            |column: &&mut Column| column.pages.iter().any(|page| page.kind == DICTIONARY);
        for column in f.columns.iter_mut().filter(of_text).take(40) {
            let page = column.page(DICTIONARY);
            (page.unpacked, page.values) = (30 << 20, 1);
            page.packed = repeated(&((30 << 20) - 4_u32).to_le_bytes(), 30 << 20);
        }
    });
    add("each row has twenty megabytes", &|f| {
        let page = f.column("exe").page(DICTIONARY);
        (page.unpacked, page.values) = (20 << 20, 1);
        page.packed = repeated(&((20 << 20) - 4_u32).to_le_bytes(), 20 << 20);
        // No bits for each number of a text, and one run of them.
        let mut data = [levels(ROWS), vec![0]].concat();
        varint((ROWS as u64) << 1, &mut data);
        *f.column("exe").page(DATA) = Page::of(DATA, RLE_DICTIONARY, ROWS as i64, &data);
    });
    add("a dictionary claims two thousand million values", &|f| {
        f.column("comm").page(DICTIONARY).values = 2 * GB - 1;
    });
    add("a dictionary claims values that it does not have", &|f| {
        f.column("comm").page(DICTIONARY).values = ROWS as i64;
    });
    add("a page claims two thousand million values", &|f| {
        f.column("comm").page(DATA).values = 2 * GB - 1;
    });
    add("a page is of a dictionary that is not there", &|f| {
        f.column("comm").pages.remove(0);
    });
    add("a page has a negative size", &|f| f.column("comm").page(DATA).unpacked = -1);
    let keys = |shared: Vec<u8>, own: Vec<u8>, bytes: &[u8]| {
        let data = [levels(ROWS), shared, own, bytes.to_vec()].concat();
        Page::of(DATA, DELTA_BYTE_ARRAY, ROWS as i64, &data)
    };
    let rows = ROWS as u64;
    add("keys claim two thousand million beginnings", &|f| {
        f.column("conn_id").pages = vec![keys(deltas(2 << 30, 0, 0), deltas(rows, 1, 0), b"a")];
    });
    add("keys claim two thousand million ends", &|f| {
        f.column("conn_id").pages = vec![keys(deltas(rows, 0, 1), deltas(2 << 30, 1, 0), b"a")];
    });
    add("keys share a megabyte", &|f| {
        let long = vec![b'a'; 1 << 20];
        let (shared, own) = (deltas(rows, 0, 1 << 20), deltas(rows, 1 << 20, 0));
        f.column("conn_id").pages = vec![keys(shared, own, &long)];
    });
    add("keys share more than there is", &|f| {
        f.column("conn_id").pages =
            vec![keys(deltas(rows, 9, 9), deltas(rows, 1, 1), &[b'a'; ROWS])];
    });
    add("keys have negative lengths", &|f| {
        f.column("conn_id").pages = vec![keys(deltas(rows, 0, 0), deltas(rows, -1, -1), b"a")];
    });
    add("keys are longer than their page", &|f| {
        f.column("conn_id").pages = vec![keys(deltas(rows, 0, 0), deltas(rows, 9, 9), b"a")];
    });
    add("texts are plain, and cut", &|f| {
        let data = [levels(ROWS), vec![1]].concat();
        f.column("exe").pages = vec![Page::of(DATA, PLAIN, ROWS as i64, &data)];
    });
    cases
}

fn of_groups(good: &Forged) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut add = |name, change: &dyn Fn(&mut Forged)| {
        let mut forged = good.clone();
        change(&mut forged);
        cases.push((name, forged.file()));
    };
    for rows in [i64::MAX, 1 << 40, 2 << 30, -1] {
        add("a group claims more rows than one has", &|f| f.rows = rows);
    }
    add("a filter has no bytes", &|f| f.filter = f.filter[..8].to_vec());
    add("a group claims a terabyte", &|f| {
        f.notes = |notes| notes["groups"][0]["len"] = (1_u64 << 40).into()
    });
    add("a group ends beyond all numbers", &|f| {
        f.notes = |notes| notes["groups"][0]["offset"] = u64::MAX.into();
    });
    add("a filter begins behind its group", &|f| {
        f.notes = |notes| notes["groups"][0]["filter"] = u64::MAX.into();
    });
    add("it claims damage without end", &|f| f.notes = |notes| notes["damaged"] = u64::MAX.into());
    cases
}

/// With this as its footer.
fn with_footer(footer: &[u8]) -> Vec<u8> {
    let len = (footer.len() as u32).to_le_bytes();
    [b"PAR1", footer, &len, b"PAR1"].concat()
}

/// The first fields of a footer: its version, and a list of so many structures.
fn schema(len: u64) -> Vec<u8> {
    let mut to = vec![0x15, 0x02, 0x19, 0xfc];
    varint(len, &mut to);
    to
}

fn of_footers() -> Vec<Case> {
    let tail = |claimed: u32| [&b"PAR1PAR1"[..], &claimed.to_le_bytes(), b"PAR1"].concat();
    // Each a group of the next: {4: "", 5: 1}.
    let deep = [schema(500_000), [0x48, 0x00, 0x15, 0x02, 0x00].repeat(500_000)].concat();
    let endless = [vec![0x15, 0x02, 0xb9], [0xf9, 0x01].repeat(20), vec![0xf1]].concat();
    let mut bools = endless;
    varint(i32::MAX as u64, &mut bools);
    let mut groups = schema(1);
    groups.extend([0x48, 0x00, 0x00, 0x16, 0x02, 0x19, 0xfc]);
    varint(i32::MAX as u64, &mut groups);
    vec![
        ("a footer claims to be four gigabytes", tail(u32::MAX)),
        ("a footer is longer than the file", tail(4_000)),
        ("columns are in one another without end", with_footer(&deep)),
        ("a footer claims two thousand million columns", with_footer(&schema(i32::MAX as u64))),
        ("a footer claims two thousand million groups", with_footer(&groups)),
        ("lists of nothing are in one another", with_footer(&bools)),
        ("a footer is empty", with_footer(&[])),
    ]
}

/// Two recordings that are whole, and this one.
fn folder(name: &str, make: impl FnOnce(&Path)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let date = |host: &str| {
        let date = dir.path().join(format!("host={host}/date=2026-11-26"));
        fs::create_dir_all(&date).unwrap();
        date.join("20261126T100000-20261126T100010-0f6a7c1e-000007")
    };
    for host in ["a", "z"] {
        fs::write(date(host).with_extension("parquet"), written(10)).unwrap();
    }
    fs::write(date("y").with_extension("jsonl"), log(10)).unwrap();
    make(&date("m").with_extension("parquet"));
    assert!(!name.is_empty());
    dir
}

/// What a reader has said, and how much memory it has had. More than that of address space it does
/// not get: this machine is spared.
#[allow(clippy::zombie_processes, reason = "wait4() waits for it, and says what it has used")]
fn read(dir: &TempDir, options: &[&str]) -> (String, String, i64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpconnect"));
    command.args(["-j", "--read"]).arg(dir.path()).args(options);
    let out = |name: &str| File::create(dir.path().join(name)).unwrap();
    command.stdin(Stdio::null()).stdout(out("stdout")).stderr(out("stderr"));
    let limit = libc::rlimit { rlim_cur: 2 << 30, rlim_max: 2 << 30 };
    // SAFETY: a system call with a structure of its own.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_AS, &limit) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let child = command.spawn().unwrap();
    let mut status = 0;
    // SAFETY: a structure of numbers.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: our child, which nobody else waits for, and two structures that are ours.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut used) };
    assert_eq!(waited, child.id() as i32);
    let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(status, 0, "{}", text("stderr"));
    (text("stdout"), text("stderr"), used.ru_maxrss * 1024)
}

fn check(name: &str, make: impl FnOnce(&Path)) -> i64 {
    let dir = folder(name, make);
    let (mut most, mut told) = (0, String::new());
    for options in [&[][..], &["--who", "10.0.0.3"]] {
        let (rows, said, memory) = read(&dir, options);
        let count = |host: &str| rows.matches(host).count();
        let rows_of_each = if options.is_empty() { 10 } else { 1 };
        let good = count(r#""event":"connect""#);
        let context =
            || format!("{name} {options:?}, {} MB: {good} rows; {said:.2000}", memory >> 20);
        // Those of the recordings that are whole, and what was read of it before.
        assert!(good >= 3 * rows_of_each, "{}", context());
        assert!(said.matches("host=m/").count() <= 1, "{}", context());
        assert!(memory <= MAX_MEMORY, "{}", context());
        most = most.max(memory);
        told += &said;
    }
    assert!(told.contains("host=m/") && told.contains("lines are damaged"), "{name}: {told:.2000}");
    most
}

#[test]
fn a_forged_file_costs_its_rows_and_one_line_and_no_memory() {
    let good = Forged::of(written(ROWS));
    // Taken apart and put together it is the same.
    let dir = folder("it is whole", |path| fs::write(path, good.file()).unwrap());
    let (rows, said, _) = read(&dir, &[]);
    assert_eq!(rows.matches(r#""event":"connect""#).count(), ROWS + 30, "{said}");
    let cases = [of_pages(&good), of_groups(&good), of_footers()].concat();
    for (name, file) in cases {
        check(name, |path| fs::write(path, file).unwrap());
    }
}

/// A disk that loses bytes seldom loses them in one place.
#[test]
fn of_all_that_is_damaged_in_a_file_one_line_is_said() {
    let mut file = written(3 * 32_768 - 1);
    let len = file.len();
    for part in 0..24 {
        file[len / 32 * part + 1_000] ^= 0xff;
    }
    let dir = folder("groups are damaged", |path| fs::write(path, &file).unwrap());
    let (rows, said, _) = read(&dir, &[]);
    assert_eq!(rows.matches(r#""event":"connect""#).count(), 30, "{said}");
    let lines: Vec<_> = said.lines().filter(|line| line.contains("host=m/")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].ends_with("a part of it is damaged; not all of its rows are read"), "{said}");
    assert!(said.ends_with("98304 lines are damaged\n"), "{said}");
}

/// Of which most is nowhere.
#[test]
fn a_file_with_holes_costs_no_memory() {
    let good = Forged::of(written(ROWS));
    check("a footer of three gigabytes", |path| {
        fs::write(path, "PAR1").unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(3 * GB as u64).unwrap();
        let tail = [&(3 * GB as u32 - 12).to_le_bytes()[..], b"PAR1"].concat();
        std::os::unix::fs::FileExt::write_all_at(&file, &tail, 3 * GB as u64 - 8).unwrap();
    });
    check("a group of three gigabytes", |path| {
        let forged = Forged {
            notes: |notes| {
                notes["groups"][0]["len"] = (3 * GB).into();
                notes["groups"][0]["filter"] = (3 * GB).into();
            },
            ..good.clone()
        };
        let whole = forged.file();
        let len =
            u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().unwrap()) as usize + 8;
        let (front, footer) = whole.split_at(whole.len() - len);
        fs::write(path, front).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(3 * GB as u64).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, footer, 3 * GB as u64).unwrap();
    });
}

/// So often; with TEST_FORGED more.
fn times() -> u64 {
    std::env::var("TEST_FORGED").map_or(300, |times| times.parse().expect("a number"))
}

/// Other bytes in its pages, with the checksums of these: whatever comes of them, it comes to an end.
#[test]
fn no_byte_of_a_page_ends_the_program() {
    let good = Forged::of(written(400));
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.parquet");
    let one = Asked { addresses: Some(vec!["10.0.0.3".parse().unwrap()]), ..Asked::default() };
    let mut seed = 1_u64;
    let mut below = |most: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % most
    };
    for _ in 0..times() {
        let mut forged = good.clone();
        for _ in 0..=below(3) {
            let columns = forged.columns.len();
            let column = &mut forged.columns[below(columns)];
            let pages = column.pages.len();
            let page = &mut column.pages[below(pages)];
            let at = below(page.packed.len());
            page.packed[at] ^= 1 << below(8);
            if below(20) == 0 {
                page.values = below(500) as i64;
            }
            if below(20) == 0 {
                page.encoding = below(10) as i64;
            }
        }
        fs::write(&path, forged.file()).unwrap();
        for asked in [&Asked::default(), &one] {
            if let Ok(reader) = Reader::open(File::open(&path).unwrap(), asked) {
                assert!(reader.count() < 10_000);
            }
        }
    }
}
