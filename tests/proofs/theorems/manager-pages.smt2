; Sets of the pages of a grant rule, at most 1,024: services/grant-manager/src/pages.rs.

(define-fun minus ((a (_ BitVec 16)) (b (_ BitVec 16))) (_ BitVec 16) (ite (bvult a b) #x0000 (bvsub a b)))

; `masks`: the bits of the pages from `start` to `end - 1` in a word.
(define-fun below ((page (_ BitVec 16)) (word (_ BitVec 16))) (_ BitVec 64)
  (let ((bits (minus page (bvmul word #x0040))))
    (ite (bvult bits #x0040)
         (bvsub (bvshl #x0000000000000001 ((_ zero_extend 48) bits)) #x0000000000000001)
         #xffffffffffffffff)))
(define-fun mask ((start (_ BitVec 16)) (end (_ BitVec 16)) (word (_ BitVec 16))) (_ BitVec 64)
  (bvand (below end word) (bvnot (below start word))))

; `range`: the end of a run, which saturates.
(define-fun run-end ((first (_ BitVec 16)) (count (_ BitVec 16))) (_ BitVec 16)
  (let ((last (bvadd first (bvsub count #x0001)))) (ite (= last #xffff) #xffff (bvadd last #x0001))))

; `set_all` on an empty set: one page of it.
(define-fun member ((first (_ BitVec 16)) (count (_ BitVec 16)) (page (_ BitVec 16))) Bool
  (and (bvult page #x0400)
       (= ((_ extract 0 0) (bvlshr (mask first (run-end first count) (bvudiv page #x0040))
                                   ((_ zero_extend 48) (bvurem page #x0040)))) #b1)))

(declare-const start (_ BitVec 16))
(declare-const end (_ BitVec 16))
(declare-const word (_ BitVec 16))
(declare-const bit (_ BitVec 16))
(declare-const first (_ BitVec 16))
(declare-const count (_ BitVec 16))
(declare-const page (_ BitVec 16))
(assert (and (bvult word #x0010) (bvult bit #x0040)))

; theorem a-mask-is-the-range
(push)
(assert true)
(check-sat)
(assert (not (= (= ((_ extract 0 0) (bvlshr (mask start end word) ((_ zero_extend 48) bit))) #b1) (and (bvule start (bvadd (bvmul word #x0040) bit)) (bvult (bvadd (bvmul word #x0040) bit) end)))))
(check-sat)
(pop)

; theorem a-run-is-its-pages
(push)
(assert (and (distinct count #x0000) (bvule (bvadd ((_ zero_extend 16) first) ((_ zero_extend 16) count)) #x00010000)))
(check-sat)
(assert (not (= (member first count page) (and (bvult page #x0400) (bvule first page) (bvult ((_ zero_extend 16) page) (bvadd ((_ zero_extend 16) first) ((_ zero_extend 16) count)))))))
(check-sat)
(pop)
