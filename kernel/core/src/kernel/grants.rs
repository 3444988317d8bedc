//! Grants: sharing pages with other domains under the policy's grant rules.

use core::ops::RangeInclusive;

use cloister_caps::tables::{Access, GrantRule, Mapping};
use cloister_caps::{DomId, GrantRef, GrantRuleId, Status};

use super::Kernel;
use super::answer::{Answer, DONE, answer};
use crate::Platform;
use crate::placement::RegionFrame;

impl Kernel<'_> {
    /// Returns the words of `granted` and `mapped` with a reference's bit, and the bit.
    fn grant_state(&mut self, reference: u32) -> (&mut u64, &mut u64, u64) {
        let word = u64::from(reference) / 64;
        (self.granted.get_mut(word), self.mapped.get_mut(word), 1 << (reference % 64))
    }

    /// Grants pages of a rule to `peer`: `page` and the `further` ones after it.
    ///
    /// If `peer_ref` is not 0, it instead maps the page that `peer` grants under this reference in
    /// the place of `page`; `further` must then be 0.
    pub(super) fn issue_grant(
        &mut self,
        platform: &mut impl Platform,
        rule: GrantRuleId,
        [page, peer, peer_ref, further]: [u64; 4],
    ) -> Result<Answer, Status> {
        let rule = self.tables.grant(rule);
        let allowed =
            |page: u64| u32::try_from(page).ok().filter(|page| *page < rule.count).ok_or(Status::NotPermitted);
        // If the last page of the range is one of the rule, so is every page before it.
        let last = allowed(page.saturating_add(further))?;
        let page = allowed(page)?;
        let peer = self.allowed_peer(rule.peers, peer)?;
        let placement = self.placements[rule.region];
        if u64::from(last) >= placement.pages() || peer_ref != 0 && further != 0 {
            return Err(Status::BadArgument);
        }
        let first = rule.first_ref + page;
        let references = first..=rule.first_ref + last;
        // Check all before granting the first, so that a refusal changes nothing.
        for (word, bits) in bits_of(&references) {
            if self.granted.get(word) & bits != 0 {
                return Err(Status::WrongState);
            }
        }
        if peer_ref != 0 {
            let frame = placement.page(page.into()).ok_or(Status::BadArgument)?;
            return self.map_grant(platform, &rule, GrantRef(first), frame, peer, peer_ref);
        }
        bits_of(&references).for_each(|(word, bits)| *self.granted.get_mut(word) |= bits);
        for (reference, frame) in references.zip((page..).map_while(|page| placement.page(page.into()))) {
            platform.grant(GrantRef(reference), frame, peer, rule.access == Access::ReadWrite);
        }
        Ok(answer(u64::from(first), 0))
    }

    /// Maps the page that `peer` grants under `peer_ref` at `frame`, in place of the page of ours
    /// there.
    fn map_grant(
        &mut self,
        platform: &mut impl Platform,
        rule: &GrantRule,
        reference: GrantRef,
        frame: RegionFrame,
        peer: DomId,
        peer_ref: u64,
    ) -> Result<Answer, Status> {
        let writable = rule.access == Access::ReadWrite;
        // A write to a page that is mapped for reading would fault, so no service may have this
        // region writable.
        let writes = |mapping: Mapping| mapping.region == rule.region && mapping.access == Access::ReadWrite;
        if !writable && self.tables.mappings().iter().any(writes) {
            return Err(Status::NotPermitted);
        }
        let peer_ref = u32::try_from(peer_ref).map(GrantRef).map_err(|_| Status::Unavailable)?;
        let (granted, mapped, bit) = self.grant_state(reference.0);
        if !platform.map_grant(reference, frame, peer, peer_ref, writable) {
            return Err(Status::Unavailable);
        }
        *granted |= bit;
        *mapped |= bit;
        Ok(DONE)
    }

    /// Ends the grant of a page, or unmaps the peer's page that is mapped there.
    pub(super) fn end_grant(
        &mut self,
        platform: &mut impl Platform,
        rule: GrantRuleId,
        page: u64,
    ) -> Result<Answer, Status> {
        let rule = self.tables.grant(rule);
        let page = u32::try_from(page).ok().filter(|page| *page < rule.count).ok_or(Status::NotPermitted)?;
        let reference = rule.first_ref + page;
        let placement = self.placements[rule.region];
        let (granted, mapped, bit) = self.grant_state(reference);
        if *granted & bit == 0 {
            return Err(Status::WrongState);
        }
        let frame = placement.page(page.into()).ok_or(Status::WrongState)?;
        if *mapped & bit != 0 {
            platform.unmap_grant(GrantRef(reference), frame);
        } else if !platform.end_grant(GrantRef(reference)) {
            return Err(Status::InUse);
        } else if rule.access == Access::ReadWrite {
            // The next peer must not see what this one wrote. A page that the peer could only read
            // is left to its owner to clear.
            platform.clear(frame);
        }
        *granted &= !bit;
        *mapped &= !bit;
        Ok(DONE)
    }
}

/// Returns the indices of the words with bits of `references`, each with those bits.
pub(super) fn bits_of(references: &RangeInclusive<u32>) -> impl Iterator<Item = (u64, u64)> + use<> {
    let (first, last) = (*references.start(), *references.end());
    (first / 64..=last / 64).map(move |word| {
        let (low, high) = (first.saturating_sub(word * 64), (last - word * 64).min(63));
        // Both are below 64. A check of that would be a branch on what a service has chosen.
        (u64::from(word), u64::MAX.wrapping_shl(low) & u64::MAX.wrapping_shr(63 - high))
    })
}
