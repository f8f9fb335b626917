// SPDX-License-Identifier: Apache-2.0
//! A line of a socket, as `--snapshot` prints it, becomes a row again.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use super::fields::Fields;
use super::fields::PeerField;
use super::read::Read;
use super::read::ReadError;
use super::read::address;
use super::read::need;
use super::read::path;
use crate::model::event::Connect;
use crate::model::row::OwnedRow;
use crate::model::row::SocketRow;
use crate::model::socket::Address;
use crate::model::socket::Ends;
use crate::model::socket::Family;
use crate::model::socket::Socket;
use crate::model::socket::UnixEnds;
use crate::output::sockets;

impl Fields<'_> {
    pub(super) fn socket_row(&self) -> Read<SocketRow> {
        Ok(SocketRow {
            socket: self.socket()?,
            pid: self.pid,
            fd: self.fd,
            comm: self.comm.as_ref().map(|_| self.name()).transpose()?,
            who: self.holder()?,
        })
    }

    fn socket(&self) -> Read<Socket> {
        let family = need("family", sockets::family_of(self.family.as_deref()))?;
        let protocol = need("protocol", sockets::protocol_of(family, self.protocol.as_deref()))?;
        let state = sockets::state_of(family, protocol, self.state.as_deref());
        let (cookie, _) = self.conn_id()?;
        Ok(Socket {
            netns: need("netns", self.netns)?,
            family,
            protocol,
            address: self.address(family)?,
            cookie: cookie.unwrap_or(0),
            state: need("state", state)?,
            inode: self.inode.unwrap_or(0),
            uid: self.uid,
            device: 0,
            is_closed: false,
        })
    }

    fn address(&self, family: Family) -> Read<Address> {
        if family == Family::Unix {
            let path = path("path", self.path.as_deref(), self.path_raw.as_deref())?;
            let peer = match &self.peer {
                None => None,
                Some(PeerField::Inode(inode)) => Some(*inode),
                Some(PeerField::Process(_)) => return Err(ReadError::Field("peer")),
            };
            let path = path.unwrap_or_default().into_vec();
            return Ok(Address::Unix(Box::new(UnixEnds { path, peer })));
        }
        let nowhere: IpAddr = match family {
            Family::Inet => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv6Addr::UNSPECIFIED.into(),
        };
        Ok(Address::Inet(Ends {
            laddr: need("saddr", address("saddr", self.saddr.as_deref())?)?,
            lport: self.lport.unwrap_or(0),
            raddr: address("daddr", self.daddr.as_deref())?.unwrap_or(nowhere),
            rport: self.dport.unwrap_or(0),
        }))
    }

    /// What is known of a socket's holder, if anybody asked; `uid` is the socket's own.
    fn holder(&self) -> Read<Option<OwnedRow>> {
        let whose = self.whose()?;
        let connect = Connect {
            pid: self.pid.unwrap_or(0),
            uid: self.process_uid,
            netns: self.netns,
            vpid: self.vpid,
            start_ns: whose.key.map_or(0, |key| key.start_ns),
            ..Connect::nowhere()
        };
        let row = whose.row(connect);
        let is_known = row.connect.uid.or(row.connect.vpid).is_some()
            || row.process.is_some()
            || row.container.is_some()
            || row.cgroup.is_some()
            || row.unit.is_some();
        Ok(is_known.then_some(row))
    }
}
