//! What the kernel's netlink tells of interfaces.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Messages of the kernel begin at multiples of so many bytes (`NLMSG_ALIGNTO` of `linux/netlink.h`).
const ALIGNMENT: usize = 4;
/// How often a list is asked for again that has changed while it was told.
const TRIES: usize = 5;

/// Asks for the interface with this index.
///
/// # Errors
/// When there is none, or the kernel says something else than what it is.
pub(super) fn link(index: u32) -> io::Result<LinkMessage> {
    let mut wanted = LinkMessage::default();
    wanted.header.index = index;
    let socket = ask(wanted, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let mut links = Vec::new();
    read(&answer, &mut links)?;
    links
        .pop()
        .ok_or_else(|| io::Error::other("expected a link, found an end"))
}

/// Asks for all interfaces of this kind. A kernel that does not know the kind may tell of others.
///
/// # Errors
/// When the kernel does not tell all.
pub(super) fn links(kind: &InfoKind) -> io::Result<Vec<LinkMessage>> {
    let mut found = list(kind);
    for _ in 1..TRIES {
        match &found {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => found = list(kind),
            _ => break,
        }
    }
    found
}

fn list(kind: &InfoKind) -> io::Result<Vec<LinkMessage>> {
    let mut wanted = LinkMessage::default();
    let kind = vec![LinkInfo::Kind(kind.clone())];
    wanted.attributes.push(LinkAttribute::LinkInfo(kind));
    let socket = ask(wanted, NLM_F_DUMP)?;
    let mut links = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        if read(&answer, &mut links)? {
            return Ok(links);
        }
    }
}

fn ask(wanted: LinkMessage, flags: u16) -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(wanted));
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(socket)
}

/// Reads one answer, which may be several messages. Returns whether it was the last one of a list. An interface of
/// which something is told that nobody here can read is left out.
pub(super) fn read(answer: &[u8], links: &mut Vec<LinkMessage>) -> io::Result<bool> {
    let mut rest = answer;
    while !rest.is_empty() {
        let buffer = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
        let length = (buffer.length() as usize).next_multiple_of(ALIGNMENT);
        if buffer.flags() & NLM_F_DUMP_INTR != 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%error, "an interface cannot be read");
                rest = rest.get(length..).unwrap_or_default();
                continue;
            }
        };
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => links.push(link),
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(io::Error::from_raw_os_error(-done.code));
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            other => {
                return Err(io::Error::other(format!(
                    "expected a link, found {other:?}"
                )));
            }
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(false)
}

/// The kind of an interface and what else the kernel says of it; nothing of a network card.
pub(super) fn infos(link: &LinkMessage) -> &[LinkInfo] {
    let infos = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos.as_slice()),
            _ => None,
        });
    infos.unwrap_or_default()
}

/// The kind of an interface.
pub(super) fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    infos(link).iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_messages_one_after_the_other_up_to_the_end() {
        let message = |index| {
            let mut link = LinkMessage::default();
            link.header.index = index;
            // Three bytes with its end, and so not a multiple of four.
            link.attributes.push(LinkAttribute::IfName("eh".to_owned()));
            let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(link));
            message.finalize();
            let mut bytes = vec![0; message.buffer_len().next_multiple_of(ALIGNMENT)];
            message.serialize(&mut bytes);
            bytes
        };
        let mut links = Vec::new();
        let two = [message(3), message(4)].concat();
        assert!(!read(&two, &mut links).unwrap());
        let indices: Vec<u32> = links.iter().map(|link| link.header.index).collect();
        assert_eq!(indices, [3, 4]);
        assert!(read(&two[..two.len() - 8], &mut links).is_err());
        // It has changed meanwhile.
        let mut changed = two;
        changed[6..8].copy_from_slice(&NLM_F_DUMP_INTR.to_ne_bytes());
        let error = read(&changed, &mut links).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert!(read(&[1, 2, 3], &mut links).is_err());
    }

    #[test]
    fn a_list_has_an_end() {
        // Of a kind that the kernel does not know it tells all, and each namespace has a loopback interface.
        let links = links(&InfoKind::Other("lb-none".to_owned())).unwrap();
        assert!(links.iter().any(|link| link.header.index == 1), "{links:?}");
    }

    #[test]
    fn one_that_is_not_there_is_an_error() {
        let error = link(0x7fff_fff0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
