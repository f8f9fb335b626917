// SPDX-License-Identifier: Apache-2.0
//! What a user may make of rights that the program file lends: file capabilities on a
//! copy of the program, run by nobody.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::fs::Permissions;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use libbpf_rs::libbpf_sys;
use tempfile::TempDir;

use super::Cells;
use super::Tests;
use super::kernel;
use super::lab;
use super::lab::Cgroup;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;
use super::lab::Tracer;
use super::lab::in_own_mounts;

pub const TESTS: &Tests = &[
    (Cells::OneBuffer, &tests![what_tracing_needs_no_more_is_given_up]),
    (
        Cells::One,
        &tests![
            a_btf_file_is_refused_to_a_user_of_file_capabilities,
            a_btf_file_is_refused_where_the_kernel_has_its_own,
            a_btf_file_that_others_may_change_is_refused,
            bounds_hold_for_a_user_of_file_capabilities,
            a_record_is_written_with_the_callers_rights_alone,
            a_full_cgroup_says_what_to_do,
        ],
    ),
];

pub const NOBODY: u32 = 65534;

/// A copy of the program with file capabilities, and a folder that nobody owns.
pub struct Lent {
    dir: TempDir,
    pub program: PathBuf,
}

impl Lent {
    fn new() -> Self {
        Lent::with(0)
    }

    /// And these capabilities more.
    pub fn with(more: u64) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
        let program = dir.path().join("tcpconnect");
        fs::copy(lab::tcpconnect(), &program).expect("the program can be copied");
        fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("it is ours");
        // NET_ADMIN, PERFMON, BPF; and for kernels before 5.11 SYS_RESOURCE, which a
        // container may lack, and then the program could not be run at all.
        lend(&program, more | 1 << 12 | 1 << 38 | 1 << 39 | bounding_set() & 1 << 24);
        let own = dir.path().join("own");
        fs::create_dir(&own).expect("a folder");
        std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).expect("we are root");
        Lent { dir, program }
    }

    fn own(&self, name: &str) -> PathBuf {
        self.dir.path().join("own").join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.uid(NOBODY).gid(NOBODY).current_dir(self.dir.path().join("own"));
        command
    }

    fn run(&self, args: &[&str]) -> Done {
        let output = self.command().args(args).stdin(Stdio::null()).output();
        let output = output.expect("tcpconnect runs");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Done { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

fn set_of(status: &str, name: &str) -> u64 {
    let set = status.lines().find_map(|line| line.strip_prefix(name)).expect("a set");
    u64::from_str_radix(set.trim(), 16).expect("a number")
}

fn bounding_set() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    set_of(&status, "CapBnd:")
}

/// The status of each thread, the first one's first.
fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let mut tids: Vec<u32> =
        tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect();
    tids.sort_unstable_by_key(|&tid| (tid != pid, tid));
    let status = |tid| fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok();
    let statuses = tids.into_iter().filter_map(status);
    // A thread that is ending has no filter of system calls any more.
    statuses
        .filter(|status| !status.contains("\nState:\tX") && !status.contains("\nState:\tZ"))
        .collect()
}

/// As `setcap =ep`: struct vfs_cap_data, revision 2, of linux/capability.h.
fn lend(program: &Path, caps: u64) {
    const REVISION_2_EFFECTIVE: u32 = 0x0200_0001;
    let words = [REVISION_2_EFFECTIVE, caps as u32, 0, (caps >> 32) as u32, 0];
    let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let path = CString::new(program.as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: both strings end with a NUL, and `data` is as long as told.
    let set = unsafe {
        let name = c"security.capability";
        libc::setxattr(path.as_ptr(), name.as_ptr(), data.as_ptr().cast(), data.len(), 0)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// The kernel's BTF, but a process's name is where its credentials are.
fn doctored_btf() -> Vec<u8> {
    let mut bytes = fs::read("/sys/kernel/btf/vmlinux").expect("the kernel has BTF");
    // SAFETY: libbpf copies the bytes; its strings and types live until btf__free(), and a
    // struct's members follow it.
    unsafe {
        let btf = libbpf_sys::btf__new(bytes.as_ptr().cast(), bytes.len() as u32);
        assert!(!btf.is_null());
        let mut size = 0;
        let start = libbpf_sys::btf__raw_data(btf, &mut size).cast::<u8>();
        let kind = libbpf_sys::BTF_KIND_STRUCT;
        let id = libbpf_sys::btf__find_by_name_kind(btf, c"task_struct".as_ptr(), kind);
        let task = libbpf_sys::btf__type_by_id(btf, id as u32);
        let count = ((*task).info & 0xffff) as usize;
        let members = task.add(1).cast::<libbpf_sys::btf_member>();
        let member = |name: &std::ffi::CStr| {
            let named = |i: &usize| {
                let at = libbpf_sys::btf__name_by_offset(btf, (*members.add(*i)).name_off);
                std::ffi::CStr::from_ptr(at) == name
            };
            members.add((0..count).find(named).expect("a task has it"))
        };
        let offset = (*member(c"cred")).offset;
        let at = (&raw const (*member(c"comm")).offset).cast::<u8>().offset_from(start);
        bytes[at as usize..][..4].copy_from_slice(&offset.to_ne_bytes());
        libbpf_sys::btf__free(btf);
    }
    bytes
}

fn what_tracing_needs_no_more_is_given_up(lab: &Lab) {
    const DAC_READ_SEARCH: u64 = 1 << 2;
    const KILL: u64 = 1 << 5;
    const SYS_PTRACE: u64 = 1 << 19;
    const BPF: u64 = 1 << 39;
    // Before 5.19 even to read a map takes it.
    let always = if kernel() < (5, 19) { BPF } else { 0 };
    // What is left to the first thread, and to those beside it.
    for (args, left, beside) in [
        (&["-j", "-r", "--life", "--accept"][..], 0, 0),
        (&["--user", "--existing"], 0, 0),
        (&["-c", "-i", "1"], 0, 0),
        (&["-xa", "--procs"], SYS_PTRACE, 0),
        (&["--container-id"], SYS_PTRACE | DAC_READ_SEARCH, 0),
        // Some read what runtimes have written down of containers.
        (&["--wide"], SYS_PTRACE | DAC_READ_SEARCH, DAC_READ_SEARCH),
        (&["-c", "--container", "web"], SYS_PTRACE | DAC_READ_SEARCH, DAC_READ_SEARCH),
    ] {
        let tracer = lab.trace(args);
        // One that has been joined is there for a moment, with the rights that it had.
        let is_leaving = |status: &String| set_of(status, "CapPrm:") & !beside != 0;
        for _ in 0..100 {
            if !threads(tracer.child.id())[1..].iter().any(is_leaving) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for status in threads(tracer.child.id()) {
            let name = status.lines().next().unwrap_or_default();
            let is_first = status.contains(&format!("\nPid:\t{}\n", tracer.child.id()));
            for set in ["CapPrm:", "CapEff:"] {
                let set = set_of(&status, set);
                match is_first {
                    true => assert_eq!(set, left | always, "{args:?} {name}: {status}"),
                    false => assert_eq!(set & !beside, 0, "{args:?} {name}: {status}"),
                }
            }
            assert_eq!(set_of(&status, "CapInh:"), 0, "{args:?} {name}");
            assert!(status.contains("NoNewPrivs:\t1\n"), "{args:?} {name}: {status}");
            // A filter of system calls.
            assert!(status.contains("Seccomp:\t2\n"), "{args:?} {name}: {status}");
        }
        let done = tracer.stop();
        assert!(done.status.success(), "{args:?}: {done:?}");
    }

    let script = "grep -E 'Cap|NoNewPrivs' /proc/self/status";
    let plain = Command::new("sh").args(["-c", script]).output().expect("sh runs");
    let plain = String::from_utf8(plain.stdout).expect("output is UTF-8");
    let output = tempfile::NamedTempFile::new().expect("a file");
    let path = output.path().to_str().expect("UTF-8");
    let tracer = lab.trace(&["-o", path, "--", "sh", "-c", script]);
    let first = threads(tracer.child.id()).remove(0);
    let done = tracer.wait();
    assert_eq!(set_of(&first, "CapPrm:"), KILL | always, "{first}");
    assert!(done.stdout.ends_with(&plain), "{plain} {done:?}");
}

fn a_btf_file_is_refused_to_a_user_of_file_capabilities(lab: &Lab) {
    let lent = Lent::new();
    let why = "tcpconnect: --btf decides where kernel memory is read, which a program with file \
               capabilities leaves to no one; run it as root, or leave --btf out (see tcpconnect \
               --help)\n";
    // Also one that root has made and nobody else may change: root did not choose it here.
    let (own, roots) = (lent.own("btf"), lent.dir.path().join("btf"));
    let doctored = doctored_btf();
    for file in [&own, &roots] {
        fs::write(file, &doctored).expect("a file");
        let file = file.to_str().expect("UTF-8");
        let done = lent.run(&["-j", "--parents", "--duration", "0.1", "--btf", file]);
        assert_eq!((done.status.code(), done.stderr.as_str()), (Some(2), why));
        assert_eq!(done.stdout, "");
    }
    // All else works: it was not for want of capabilities.
    let mut client = Client::new();
    let netns = client.netns();
    let args = ["-j", "--attach", &lab.attach, "--netns", &netns];
    let tracer = Tracer::start(lent.command(), &args);
    client.knock(81);
    let done = tracer.stop();
    assert_eq!(super::ports(&done), [81], "{done:?}");
}

fn bounds_hold_for_a_user_of_file_capabilities(_: &Lab) {
    let lent = Lent::new();
    for (args, why) in [
        (&["--buffer-size", "65M"][..], "--buffer-size is at most 64M"),
        (&["--life", "--max-connections", "262145"], "--max-connections is at most 262144"),
    ] {
        let done = lent.run(&[args, &["--duration", "0.01"]].concat());
        let line = format!(
            "tcpconnect: {why} for a program with file capabilities; run it as root for more (see \
             tcpconnect --help)\n"
        );
        assert_eq!((done.status.code(), done.stderr), (Some(2), line));
    }
}

fn a_record_is_written_with_the_callers_rights_alone(lab: &Lab) {
    let lent = Lent::new();
    let (own, roots) = (lent.own("rows"), lent.dir.path().join("rows"));
    let secret = lent.own("secret");
    fs::write(&secret, "root's\n").expect("a file");
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("it is ours");
    let trace = |file: &Path| {
        let file = file.to_str().expect("UTF-8");
        lent.run(&["--attach", &lab.attach, "--duration", "0.01", "-o", file])
    };
    trace(&own).assert_quiet_success();
    let meta = fs::metadata(&own).expect("it is there");
    assert_eq!((meta.uid(), meta.mode() & 0o777), (NOBODY, 0o600));
    for file in [&roots, &secret] {
        let done = trace(file);
        let line = format!(
            "tcpconnect: cannot write to --output '{}': Permission denied\n",
            file.display()
        );
        assert_eq!((done.status.code(), done.stderr), (Some(1), line));
    }
    assert_eq!(fs::read_to_string(&secret).expect("it is there"), "root's\n");
    // Set-user-ID, the program could write all of root's files.
    fs::set_permissions(&lent.program, Permissions::from_mode(0o4755)).expect("it is ours");
    let done = trace(&secret);
    let why = "tcpconnect: -o would write where you may not, with the rights of the program file; \
               redirect its output, or run it as root (see tcpconnect --help)\n";
    assert_eq!((done.status.code(), done.stderr.as_str()), (Some(2), why));
}

/// As many programs as a cgroup can have, which do nothing.
fn fill(cgroup: &File) -> Vec<OwnedFd> {
    // BPF_CGROUP_MAX_PROGS
    (0..64)
        .map(|_| {
            let insn = |code, imm| libbpf_sys::bpf_insn { code, imm, ..Default::default() };
            // r0 = 1; exit
            let program = [insn(0xb7, 1), insn(0x95, 0)];
            // SAFETY: the program is valid, and copied during the call.
            let fd = unsafe {
                libbpf_sys::bpf_prog_load(
                    libbpf_sys::BPF_PROG_TYPE_SOCK_OPS,
                    c"full".as_ptr(),
                    c"GPL".as_ptr(),
                    program.as_ptr(),
                    program.len() as _,
                    std::ptr::null_mut(),
                )
            };
            assert!(fd >= 0, "the program loads: {fd}");
            // SAFETY: the call above made it, for us.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            let (kind, multi) = (libbpf_sys::BPF_CGROUP_SOCK_OPS, libbpf_sys::BPF_F_ALLOW_MULTI);
            // SAFETY: takes descriptors and numbers only.
            let attached = unsafe {
                libbpf_sys::bpf_prog_attach(fd.as_raw_fd(), cgroup.as_raw_fd(), kind, multi)
            };
            assert_eq!(attached, 0, "the program attaches");
            fd
        })
        .collect()
}

/// In a cgroup namespace, whose root is a cgroup of our own: the host's stays free.
pub fn in_a_full_cgroup(options: &str) -> Output {
    let cgroup = Cgroup::new("full");
    let _programs = fill(&File::open(&cgroup.0).expect("it is there"));
    let procs = CString::new(cgroup.0.join("cgroup.procs").as_os_str().as_bytes()).expect("no NUL");
    let mount = tcpconnect::host::cgroup::mount().expect("cgroup v2 is mounted");
    let mut command = Command::new("sh");
    let script = "mount --make-rprivate / && umount -l \"$0\" && mount -t cgroup2 none \"$0\" && \
                  exec \"$1\" $2";
    command.args(["-c", script]).arg(mount).arg(lab::tcpconnect()).arg(options);
    command.stdin(Stdio::null());
    // SAFETY: only system calls; the text was made before the fork.
    unsafe {
        command.pre_exec(move || {
            let file = libc::open(procs.as_ptr(), libc::O_WRONLY);
            if libc::write(file, c"0".as_ptr().cast(), 1) != 1
                || libc::unshare(libc::CLONE_NEWCGROUP | libc::CLONE_NEWNS) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.output().expect("sh runs")
}

fn a_full_cgroup_says_what_to_do(_: &Lab) {
    let output = in_a_full_cgroup("--attach sockops --duration 0.01");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("tcpconnect: no hook can be attached: sockops: "), "{stderr}");
    let why = "E2BIG (64 programs of a kind on one cgroup are the kernel's limit: end other \
               tracers, see bpftool cgroup tree)";
    assert!(stderr.contains(why) && stderr.lines().count() == 1, "{stderr}");
}

fn a_btf_file_is_refused_where_the_kernel_has_its_own(lab: &Lab) {
    let dir = TempDir::new().expect("a temporary folder");
    let file = dir.path().join("btf");
    fs::write(&file, doctored_btf()).expect("a file");
    let file = file.to_str().expect("UTF-8");
    let done = lab.run(&["-j", "--parents", "--duration", "0.1", "--btf", file]);
    let why = format!(
        "tcpconnect: cannot use BTF file '{file}': this kernel has BTF of its own; leave out --btf\n"
    );
    assert_eq!((done.status.code(), done.stderr), (Some(1), why));
}

fn a_btf_file_that_others_may_change_is_refused(lab: &Lab) {
    let of_root = "it decides where kernel memory is read, so only root may be able to change it; \
                   chown root and chmod go-w";
    for (make, why) in [
        ("cp \"$BTF\" btf; chmod 0664 btf", of_root),
        ("cp \"$BTF\" btf; chmod 0646 btf", of_root),
        ("cp \"$BTF\" btf; chown 65534 btf", of_root),
        ("cp \"$BTF\" it; ln -s it btf", "it is a symbolic link; give --btf the file itself"),
        ("mkfifo btf", "it is no regular file; check --btf"),
        ("mkdir btf", "it is no regular file; check --btf"),
        ("echo no BTF > btf", "it holds no BTF; check --btf"),
        (": > btf", "it holds no BTF; check --btf"),
        (":", "No such file or directory; check --btf"),
    ] {
        let dir = TempDir::new().expect("a temporary folder");
        let kernels = dir.path().join("vmlinux");
        fs::copy("/sys/kernel/btf/vmlinux", &kernels).expect("the kernel has BTF");
        let script = format!(
            "cd \"$DIR\" && mount -t tmpfs none /sys/kernel/btf && {make}; \
             exec \"$TCPCONNECT\" --attach \"$ATTACH\" --duration 0.1 --btf btf"
        );
        let envs = [
            ("DIR", dir.path().into()),
            ("BTF", kernels.into()),
            ("TCPCONNECT", lab::tcpconnect().into()),
            ("ATTACH", lab.attach.clone().into()),
        ];
        let done = in_own_mounts(&script, &envs);
        let line = format!("tcpconnect: cannot use BTF file 'btf': {why}\n");
        assert_eq!((done.status.code(), done.stderr), (Some(1), line), "{make}");
    }
}
