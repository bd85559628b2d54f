//! The ports that are not in a list, as values with masks: what an OpenFlow match can say. Refuses nothing: an empty list
//! leaves all of them.

/// Value and mask; a port is meant when its bits under the mask are the value's.
pub type Masked = (u16, u16);

/// Every port but the listed ones, in as few masks as there are aligned ranges.
#[must_use]
pub fn complement(listed: &[u16]) -> Vec<Masked> {
    let mut listed: Vec<u32> = listed.iter().copied().map(u32::from).collect();
    listed.sort_unstable();
    listed.dedup();
    let mut masks = Vec::new();
    let mut next = 0;
    for port in listed.into_iter().chain([1 << 16]) {
        while next < port {
            // The largest aligned range that begins here and ends before the listed port.
            let aligned = if next == 0 { 1 << 16 } else { 1 << next.trailing_zeros() };
            let mut size: u32 = aligned;
            while next + size > port {
                size /= 2;
            }
            let bits = |number: u32| u16::try_from(number & 0xffff).unwrap_or(0);
            masks.push((bits(next), bits(!(size - 1))));
            next += size;
        }
        next = port + 1;
    }
    masks
}

#[cfg(test)]
mod tests {
    use super::complement;

    #[test]
    fn a_port_is_meant_when_it_is_not_listed() {
        for listed in [&[][..], &[0], &[22, 80, 443], &[65_535], &[80, 80, 81], &[1, 2, 3, 32_768]] {
            let masks = complement(listed);
            for port in 0..=u16::MAX {
                let meant = masks.iter().filter(|(value, mask)| port & mask == *value).count();
                assert_eq!(meant, usize::from(!listed.contains(&port)), "{port} of {listed:?}");
            }
        }
        assert_eq!(complement(&[]), [(0, 0)]);
    }
}
