//! Tells the machines on a bridge that addresses are at the bridge now: gratuitous ARP.
//!
//! A machine that spoke with a neighbour keeps its hardware address for half a minute after that neighbour went to another server.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};

use super::device::class;
use super::{Error, Result};

/// `ETH_P_ARP`, from linux/if_ether.h.
const ARP: u16 = 0x0806;
const EVERYBODY: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];

/// Everybody on one device.
struct Link(libc::sockaddr_ll);

// SAFETY: what the pointer leads to is a whole address of the kernel's own layout, and lives as long as the call.
unsafe impl SocketAddrArg for Link {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f((&raw const self.0).cast(), size_of::<libc::sockaddr_ll>() as SocketAddrLen)
    }
}

pub(super) fn announce<'a>(device: &str, addresses: impl IntoIterator<Item = &'a Ipv4Addr>) -> Result<()> {
    let failed = |source| Error::Io { what: format!("could not tell machines on {device} what moved"), source };
    let read = |name: &str| fs::read_to_string(class(device).join(name)).map_err(failed);
    let index = read("ifindex")?.trim().parse().map_err(|_| failed(ErrorKind::InvalidData.into()))?;
    let own = hardware(read("address")?.trim()).ok_or_else(|| failed(ErrorKind::InvalidData.into()))?;
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(|errno| failed(errno.into()))?;
    let link = Link(libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ARP.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: EVERYBODY,
    });
    for address in addresses {
        sendto(&socket, &question(own, *address), SendFlags::empty(), &link).map_err(|errno| failed(errno.into()))?;
    }
    Ok(())
}

/// "Who has this address? I have": whoever has it in a table changes it there.
fn question(own: [u8; 6], address: Ipv4Addr) -> [u8; 28] {
    let mut packet = [0; 28];
    // Ethernet, IPv4, the lengths of their addresses, a request.
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    packet[8..14].copy_from_slice(&own);
    packet[14..18].copy_from_slice(&address.octets());
    packet[24..].copy_from_slice(&address.octets());
    packet
}

fn hardware(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_who_asks_and_the_same_address_twice() {
        let packet = question(hardware("02:ad:00:01:02:03").unwrap(), "10.213.0.3".parse().unwrap());
        assert_eq!(packet[8..18], [2, 0xad, 0, 1, 2, 3, 10, 213, 0, 3]);
        assert_eq!(packet[18..], [0, 0, 0, 0, 0, 0, 10, 213, 0, 3]);
        assert_eq!(hardware("02:ad:00"), None);
    }
}
