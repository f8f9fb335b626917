// SPDX-License-Identifier: Apache-2.0
//! What code could do that an attacker has a program run: any system call of the test's
//! choice, made by the program itself.

use std::ffi::CStr;
use std::io::Error;
use std::ops::RangeInclusive;

use libc::c_void;
use libc::user_regs_struct;

/// `syscall`, as x86-64 has it.
const SYSCALL: u64 = 0x050f;

/// ERESTARTSYS to ERESTART_RESTARTBLOCK of linux/errno.h: what a call has for a result that
/// a signal took out of its wait.
const RESTARTS: RangeInclusive<i64> = -516..=-512;

/// A program that waits in a system call, held there.
pub struct Held {
    pid: i32,
    regs: user_regs_struct,
}

fn ptrace(request: libc::c_uint, pid: i32, addr: u64, data: *mut c_void) -> i64 {
    // SAFETY: what `data` points to, where the request takes it for a pointer, is alive and
    // large enough in each call below.
    let done = unsafe { libc::ptrace(request, pid, addr as *mut c_void, data) };
    assert!(done != -1 || request == libc::PTRACE_PEEKTEXT, "{}", Error::last_os_error());
    done
}

impl Held {
    pub fn new(pid: u32) -> Self {
        let pid = pid as i32;
        ptrace(libc::PTRACE_SEIZE, pid, 0, std::ptr::null_mut());
        // It may be at work just then.
        let mut held = loop {
            ptrace(libc::PTRACE_INTERRUPT, pid, 0, std::ptr::null_mut());
            let held = Held { pid, regs: stopped(pid) };
            let text = ptrace(libc::PTRACE_PEEKTEXT, pid, held.regs.rip - 2, std::ptr::null_mut());
            let waits = RESTARTS.contains(&(held.regs.rax as i64));
            if waits && text as u64 & 0xffff == SYSCALL {
                break held;
            }
            std::mem::forget(held);
            ptrace(libc::PTRACE_CONT, pid, 0, std::ptr::null_mut());
            std::thread::sleep(std::time::Duration::from_millis(3));
        };
        // It goes on as if a signal had ended its wait.
        held.regs.rax = -i64::from(libc::EINTR) as u64;
        held.regs.orig_rax = u64::MAX;
        held
    }

    /// The call's result; an error is negative.
    pub fn call(&mut self, call: i64, args: [u64; 6]) -> i64 {
        let mut regs = self.regs;
        regs.rip -= 2;
        regs.rax = call as u64;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        ptrace(libc::PTRACE_SETREGS, self.pid, 0, (&raw mut regs).cast());
        ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, std::ptr::null_mut());
        stopped(self.pid).rax as i64
    }

    /// Puts a text where the program's stack has not yet been, and returns where.
    pub fn put(&self, text: &CStr) -> u64 {
        let at = self.regs.rsp - 4_096;
        let mut bytes = text.to_bytes_with_nul().to_vec();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        for (word, bytes) in bytes.chunks(8).enumerate() {
            let value = u64::from_ne_bytes(bytes.try_into().expect("eight"));
            ptrace(libc::PTRACE_POKEDATA, self.pid, at + 8 * word as u64, value as *mut c_void);
        }
        at
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let none: *mut c_void = std::ptr::null_mut();
        // SAFETY: the registers are alive. It may be gone, which the test has seen then.
        unsafe {
            libc::ptrace(libc::PTRACE_SETREGS, self.pid, none, &raw mut self.regs);
            libc::ptrace(libc::PTRACE_DETACH, self.pid, none, none);
        }
    }
}

/// Waits until it is stopped.
fn stopped(pid: i32) -> user_regs_struct {
    let mut status = 0;
    // SAFETY: `status` is a valid integer.
    let waited = unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
    assert!(waited == pid && libc::WIFSTOPPED(status), "{waited} {status:#x}");
    // SAFETY: all-zero registers are valid.
    let mut regs: user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, pid, 0, (&raw mut regs).cast());
    regs
}
