; The ranges of a grant and its peer: kernel/core/src/kernel/grants.rs and answer.rs.
; Arguments of a system call are 64 bits wide and may be anything. A rule has `count` pages with the
; references from `first-ref` on, all below 4,096: `Tables::parse` refuses others.

(define-fun plus ((a (_ BitVec 64)) (b (_ BitVec 64))) (_ BitVec 64)
  (ite (bvult (bvadd a b) a) #xffffffffffffffff (bvadd a b)))

; `allowed_peer`.
(define-fun is-allowed ((peer (_ BitVec 64)) (low (_ BitVec 16)) (high (_ BitVec 16))) Bool
  (and (bvule peer #x000000000000ffff)
       (let ((domain ((_ extract 15 0) peer)))
         (and (bvult domain #x7ff0) (bvule low domain) (bvule domain high)))))

; The pages that `issue_grant` accepts: `further` ones after `page`.
(define-fun is-page ((page (_ BitVec 64)) (count (_ BitVec 32))) Bool
  (and (bvule page #x00000000ffffffff) (bvult ((_ extract 31 0) page) count)))
(define-fun is-range ((page (_ BitVec 64)) (further (_ BitVec 64)) (count (_ BitVec 32))) Bool
  (and (is-page (plus page further) count) (is-page page count)))
(define-fun reference ((page (_ BitVec 64)) (first-ref (_ BitVec 32))) (_ BitVec 32)
  (bvadd first-ref ((_ extract 31 0) page)))

; `bits_of`: the bits of the references from `first` to `last` in a word.
(define-fun low-bit ((first (_ BitVec 32)) (word (_ BitVec 32))) (_ BitVec 32)
  (ite (bvult first (bvmul word #x00000040)) #x00000000 (bvsub first (bvmul word #x00000040))))
(define-fun high-bit ((last (_ BitVec 32)) (word (_ BitVec 32))) (_ BitVec 32)
  (let ((bit (bvsub last (bvmul word #x00000040)))) (ite (bvult bit #x0000003f) bit #x0000003f)))
(define-fun bits ((first (_ BitVec 32)) (last (_ BitVec 32)) (word (_ BitVec 32))) (_ BitVec 64)
  (bvand (bvshl #xffffffffffffffff ((_ zero_extend 32) (low-bit first word)))
         (bvlshr #xffffffffffffffff ((_ zero_extend 32) (bvsub #x0000003f (high-bit last word))))))
(define-fun is-in ((reference (_ BitVec 32)) (first (_ BitVec 32)) (last (_ BitVec 32))) Bool
  (let ((word (bvudiv reference #x00000040)))
    (and (bvule (bvudiv first #x00000040) word) (bvule word (bvudiv last #x00000040))
         (= ((_ extract 0 0) (bvlshr (bits first last word)
                                     ((_ zero_extend 32) (bvurem reference #x00000040)))) #b1))))

(declare-const page (_ BitVec 64))
(declare-const further (_ BitVec 64))
(declare-const other (_ BitVec 64))
(declare-const peer (_ BitVec 64))
(declare-const low (_ BitVec 16))
(declare-const high (_ BitVec 16))
(declare-const count (_ BitVec 32))
(declare-const first-ref (_ BitVec 32))
(declare-const first (_ BitVec 32))
(declare-const last (_ BitVec 32))
(declare-const word (_ BitVec 32))
(declare-const reference-in-question (_ BitVec 32))

; theorem a-peer-is-in-the-rule-and-real
(push)
(assert true)
(check-sat)
(assert (not (= (is-allowed peer low high) (and (bvule ((_ zero_extend 48) low) peer) (bvule peer ((_ zero_extend 48) high)) (bvule peer #x0000000000007fef)))))
(check-sat)
(pop)

; theorem every-page-of-a-range-is-the-rules
(push)
(assert (and (is-range page further count) (bvule page other) (bvule (bvsub other page) further)))
(check-sat)
(assert (not (and (is-page other count) (bvuge (bvadd page further) page) (bvult (bvadd page further) ((_ zero_extend 32) count)))))
(check-sat)
(pop)

; theorem a-range-that-fits-is-accepted
(push)
(assert (and (bvult page ((_ zero_extend 32) count)) (bvult further (bvsub ((_ zero_extend 32) count) page))))
(check-sat)
(assert (not (is-range page further count)))
(check-sat)
(pop)

; theorem a-reference-is-the-rules-and-the-pages-own
(push)
(assert (and (bvule first-ref #x00001000) (bvule count #x00001000) (bvule (bvadd first-ref count) #x00001000) (is-page page count) (is-page other count)))
(check-sat)
(assert (not (and (bvule first-ref (reference page first-ref)) (bvult (reference page first-ref) (bvadd first-ref count)) (= (= page other) (= (reference page first-ref) (reference other first-ref))))))
(check-sat)
(pop)

; theorem no-shift-is-too-wide
(push)
(assert (and (bvule first last) (bvult last #x00001000) (bvule (bvudiv first #x00000040) word) (bvule word (bvudiv last #x00000040))))
(check-sat)
(assert (not (and (bvule (bvmul word #x00000040) last) (bvult (low-bit first word) #x00000040) (bvult (high-bit last word) #x00000040))))
(check-sat)
(pop)

; theorem the-bits-are-the-references
(push)
(assert (and (bvule first last) (bvult last #x00001000) (bvult reference-in-question #x00001040)))
(check-sat)
(assert (not (= (is-in reference-in-question first last) (and (bvule first reference-in-question) (bvule reference-in-question last)))))
(check-sat)
(pop)
