// SPDX-License-Identifier: Apache-2.0
//! The Community ID of a connection, version 1, seed 0: a hash of its two ends
//! that is the same at both, so that records of different hosts and tools join
//! (<https://github.com/corelight/community-id-spec>). Knows TCP only.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::Digest as _;
use sha1::Sha1;

/// `1:` and 20 bytes in Base64.
pub const LEN: usize = 30;

const TCP: u8 = 6;

/// Of a connection between two addresses of one family, in either order. What is
/// IPv4 on the wire is hashed as such, also if it is written ::ffff:a.b.c.d.
pub fn of(one: (IpAddr, u16), other: (IpAddr, u16)) -> [u8; LEN] {
    let canonical = |(addr, port): (IpAddr, u16)| (addr.to_canonical(), port);
    let (one, other) = (canonical(one), canonical(other));
    let (low, high) = if one <= other { (one, other) } else { (other, one) };
    let mut hash = Sha1::new_with_prefix([0, 0]);
    for (addr, _) in [low, high] {
        match addr {
            IpAddr::V4(addr) => hash.update(addr.octets()),
            IpAddr::V6(addr) => hash.update(addr.octets()),
        }
    }
    hash.update([TCP, 0]);
    for (_, port) in [low, high] {
        hash.update(port.to_be_bytes());
    }
    let mut id = *b"1:............................";
    let written = STANDARD.encode_slice(hash.finalize(), &mut id[2..]);
    assert_eq!(written, Ok(LEN - 2), "20 bytes are 28 characters");
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(one: (&str, u16), other: (&str, u16)) -> String {
        let end = |(addr, port): (&str, u16)| (addr.parse().unwrap(), port);
        String::from_utf8(of(end(one), end(other)).to_vec()).unwrap()
    }

    #[test]
    fn it_is_that_of_the_specifications_own_program() {
        let (client, server) = (("128.232.110.120", 34855), ("66.35.250.204", 80));
        assert_eq!(id(client, server), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        let (client, server) = (("2001:db8::2", 40_000), ("2001:db8::1", 443));
        assert_eq!(id(client, server), "1:jn1M/64iWT+nYqxpE1jYHo+15rE=");
        assert_eq!(id(("127.0.0.1", 2), ("127.0.0.1", 1)), "1:ZZgRz2hVINQTxxx5A16ujdXoy78=");
    }

    #[test]
    fn both_ends_have_the_same() {
        for (one, other) in [
            (("192.0.2.1", 40_000), ("198.51.100.7", 443)),
            (("2001:db8::2", 1), ("2001:db8::1", 2)),
            (("127.0.0.1", 2), ("127.0.0.1", 1)),
        ] {
            assert_eq!(id(one, other), id(other, one));
        }
    }

    #[test]
    fn a_mapped_address_is_the_one_on_the_wire() {
        let mapped = id(("::ffff:192.0.2.1", 40_000), ("::ffff:198.51.100.7", 443));
        assert_eq!(mapped, id(("192.0.2.1", 40_000), ("198.51.100.7", 443)));
    }
}
