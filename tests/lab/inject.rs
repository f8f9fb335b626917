// SPDX-License-Identifier: Apache-2.0
//! What code could do that an attacker has a program run: any system call of the test's
//! choice, made by the program itself.

use std::ffi::CStr;
use std::io::Error;
use std::ops::RangeInclusive;

use libc::c_void;
use libc::iovec;
use libc::user_regs_struct;

/// The set of general registers (linux/elf.h).
const NT_PRSTATUS: u64 = 1;

#[cfg(target_arch = "x86_64")]
mod machine {
    use super::RangeInclusive;
    use super::user_regs_struct;

    /// `syscall`.
    pub const SYSCALL: u64 = 0x050f;
    pub const SYSCALL_MASK: u64 = 0xffff;
    const SYSCALL_LEN: u64 = 2;

    /// ERESTARTSYS to ERESTART_RESTARTBLOCK of linux/errno.h: what a call has for a result that
    /// a signal took out of its wait.
    const RESTARTS: RangeInclusive<i64> = -516..=-512;

    /// Where the call that it waits in was made, if it waits in one.
    pub fn waits_at(regs: &user_regs_struct) -> Option<u64> {
        RESTARTS.contains(&(regs.rax as i64)).then(|| regs.rip - SYSCALL_LEN)
    }

    /// It goes on as if a signal had ended its wait.
    pub fn interrupt(regs: &mut user_regs_struct) {
        regs.rax = -i64::from(libc::EINTR) as u64;
        regs.orig_rax = u64::MAX;
    }

    pub fn make_call(regs: &mut user_regs_struct, call: i64, args: [u64; 6]) {
        regs.rip -= SYSCALL_LEN;
        regs.rax = call as u64;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
    }

    pub fn result(regs: &user_regs_struct) -> i64 {
        regs.rax as i64
    }

    pub fn stack(regs: &user_regs_struct) -> u64 {
        regs.rsp
    }
}

#[cfg(target_arch = "aarch64")]
mod machine {
    use super::user_regs_struct;

    /// `svc #0`.
    pub const SYSCALL: u64 = 0xd400_0001;
    pub const SYSCALL_MASK: u64 = 0xffff_ffff;
    const SYSCALL_LEN: u64 = 4;

    /// Before it stops a program in a call, the kernel has put it back to where that is made
    /// (do_signal() of arch/arm64/kernel/signal.c).
    pub fn waits_at(regs: &user_regs_struct) -> Option<u64> {
        (regs.regs[8] as i64 == libc::SYS_ppoll).then_some(regs.pc)
    }

    /// It goes on as if a signal had ended its wait.
    pub fn interrupt(regs: &mut user_regs_struct) {
        regs.regs[0] = -i64::from(libc::EINTR) as u64;
        regs.pc += SYSCALL_LEN;
    }

    pub fn make_call(regs: &mut user_regs_struct, call: i64, args: [u64; 6]) {
        regs.pc -= SYSCALL_LEN;
        regs.regs[8] = call as u64;
        regs.regs[..6].copy_from_slice(&args);
    }

    pub fn result(regs: &user_regs_struct) -> i64 {
        regs.regs[0] as i64
    }

    pub fn stack(regs: &user_regs_struct) -> u64 {
        regs.sp
    }
}

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
            let is_call = |at| {
                let text = ptrace(libc::PTRACE_PEEKTEXT, pid, at, std::ptr::null_mut());
                text as u64 & machine::SYSCALL_MASK == machine::SYSCALL
            };
            if machine::waits_at(&held.regs).is_some_and(is_call) {
                break held;
            }
            std::mem::forget(held);
            ptrace(libc::PTRACE_CONT, pid, 0, std::ptr::null_mut());
            std::thread::sleep(std::time::Duration::from_millis(3));
        };
        machine::interrupt(&mut held.regs);
        held
    }

    /// The call's result; an error is negative.
    pub fn call(&mut self, call: i64, args: [u64; 6]) -> i64 {
        let mut regs = self.regs;
        machine::make_call(&mut regs, call, args);
        let mut all = whole(&mut regs);
        ptrace(libc::PTRACE_SETREGSET, self.pid, NT_PRSTATUS, (&raw mut all).cast());
        ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, std::ptr::null_mut());
        machine::result(&stopped(self.pid))
    }

    /// Puts a text where the program's stack has not yet been, and returns where.
    pub fn put(&self, text: &CStr) -> u64 {
        let at = machine::stack(&self.regs) - 4_096;
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
        let mut all = whole(&mut self.regs);
        // SAFETY: the registers are alive. It may be gone, which the test has seen then.
        unsafe {
            libc::ptrace(libc::PTRACE_SETREGSET, self.pid, NT_PRSTATUS, &raw mut all);
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
    let mut all = whole(&mut regs);
    ptrace(libc::PTRACE_GETREGSET, pid, NT_PRSTATUS, (&raw mut all).cast());
    regs
}

/// All registers of the set, for the kernel to read or write.
fn whole(regs: &mut user_regs_struct) -> iovec {
    iovec { iov_base: (&raw mut *regs).cast(), iov_len: size_of_val(regs) }
}
