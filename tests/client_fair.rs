// SPDX-License-Identifier: Apache-2.0
//! The client's cases about what one user can do to others. Owns no assertion.

use std::io::{Read as _, Write as _, pipe};
use std::process::{exit, id};

use crate::{Ctx, Res, become_user, fork, in_child, number, storm, sys, text, wait, write};

/// `storm_below OWNER UID N`: connects by a user that OWNER has in a user namespace of its own, as
/// newuidmap(1) gives it.
pub fn storm_below(ctx: &Ctx, args: &[&str]) -> Res {
    let (owner, uid): (u32, u32) = (number(args, 0, None)?, number(args, 1, None)?);
    in_child(ctx, fork, |ctx| {
        let (mut unshared, mut is_unshared) = pipe().map_err(text)?;
        let (mut mapped, mut is_mapped) = pipe().map_err(text)?;
        let (owned, mut byte) = (id(), [0]);
        let helper = fork()?;
        if helper == 0 {
            let result = unshared.read_exact(&mut byte).map_err(text).and_then(|()| {
                write(&format!("/proc/{owned}/uid_map"), &format!("0 {uid} 1"))?;
                is_mapped.write_all(&byte).map_err(text)
            });
            exit(i32::from(result.is_err()));
        }
        drop(is_mapped);
        become_user(owner)?;
        // SAFETY: plain system calls.
        sys("unshare", unsafe { libc::unshare(libc::CLONE_NEWUSER) })?;
        is_unshared.write_all(&byte).map_err(text)?;
        mapped.read_exact(&mut byte).map_err(text)?;
        wait(helper)?;
        // SAFETY: as above.
        sys("setresuid", unsafe { libc::setresuid(0, 0, 0) })?;
        storm(ctx, &args[2..])
    })
}
