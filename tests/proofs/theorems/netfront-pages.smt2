; Sets of the pages of a pool of at most 256: netfront-service/src/pages.rs.
; A set is four words, a to d. `count` is at most 63, as the functions require.

; `mask`: the bits of a run in the word of its first page, and in the word after it.
(define-fun bits ((count (_ BitVec 16))) (_ BitVec 64)
  (bvsub (bvshl #x0000000000000001 ((_ zero_extend 48) (bvurem count #x0040))) #x0000000000000001))
(define-fun low ((first (_ BitVec 16)) (count (_ BitVec 16))) (_ BitVec 64)
  (bvshl (bits count) ((_ zero_extend 48) (bvurem first #x0040))))
(define-fun high ((first (_ BitVec 16)) (count (_ BitVec 16))) (_ BitVec 64)
  (bvlshr (bvlshr (bits count) #x0000000000000001)
          ((_ zero_extend 48) (bvsub #x003f (bvurem first #x0040)))))
(define-fun index ((page (_ BitVec 16))) (_ BitVec 16) (bvudiv page #x0040))
(define-fun next ((page (_ BitVec 16))) (_ BitVec 16) (bvadd (index page) #x0001))

(define-fun is-bit ((word (_ BitVec 64)) (bit (_ BitVec 16))) Bool
  (= ((_ extract 0 0) (bvlshr word ((_ zero_extend 48) bit))) #b1))

; `PageSet::word`: 0 beyond the last.
(define-fun word ((a (_ BitVec 64)) (b (_ BitVec 64)) (c (_ BitVec 64)) (d (_ BitVec 64)) (index (_ BitVec 16)))
  (_ BitVec 64)
  (ite (= index #x0000) a (ite (= index #x0001) b (ite (= index #x0002) c (ite (= index #x0003) d
    #x0000000000000000)))))

(define-fun contains-any ((a (_ BitVec 64)) (b (_ BitVec 64)) (c (_ BitVec 64)) (d (_ BitVec 64))
                          (first (_ BitVec 16)) (count (_ BitVec 16))) Bool
  (or (distinct (bvand (word a b c d (index first)) (low first count)) #x0000000000000000)
      (and (distinct (high first count) #x0000000000000000)
           (distinct (bvand (word a b c d (next first)) (high first count)) #x0000000000000000))))
(define-fun contains-all ((a (_ BitVec 64)) (b (_ BitVec 64)) (c (_ BitVec 64)) (d (_ BitVec 64))
                          (first (_ BitVec 16)) (count (_ BitVec 16))) Bool
  (and (= (bvand (word a b c d (index first)) (low first count)) (low first count))
       (or (= (high first count) #x0000000000000000)
           (= (bvand (word a b c d (next first)) (high first count)) (high first count)))))

; The bits that `set_all` changes in a word, and what it leaves of a page.
(define-fun changed ((word (_ BitVec 16)) (first (_ BitVec 16)) (count (_ BitVec 16))) (_ BitVec 64)
  (ite (= word (index first)) (low first count)
       (ite (= word (next first)) (high first count) #x0000000000000000)))
(define-fun after-set-all ((before Bool) (page (_ BitVec 16)) (first (_ BitVec 16)) (count (_ BitVec 16))
                           (member Bool)) Bool
  (and (bvult page #x0100)
       (ite (is-bit (changed (index page) first count) (bvurem page #x0040)) member before)))

; `run_length` of a word with the first page: the ones at the end, at most 63.
(define-fun is-run-length ((word (_ BitVec 64)) (first (_ BitVec 16)) (length (_ BitVec 16))) Bool
  (let ((shifted (bvlshr word ((_ zero_extend 48) (bvurem first #x0040)))))
    (and (bvule length #x003f) (= (bvand shifted (bits length)) (bits length))
         (or (= length #x003f) (not (is-bit shifted length))))))

; The meaning, written without shifts of words.
(define-fun is-in ((page (_ BitVec 16)) (first (_ BitVec 16)) (count (_ BitVec 16))) Bool
  (and (bvule first page)
       (bvult ((_ zero_extend 16) page) (bvadd ((_ zero_extend 16) first) ((_ zero_extend 16) count)))))
(define-fun in-pool ((first (_ BitVec 16)) (count (_ BitVec 16))) Bool
  (or (= count #x0000) (bvule (bvadd ((_ zero_extend 16) first) ((_ zero_extend 16) count)) #x00000100)))
(define-fun has ((word (_ BitVec 64)) (number (_ BitVec 16)) (first (_ BitVec 16)) (count (_ BitVec 16))) Bool
  (distinct (bvand word (changed number first count)) #x0000000000000000))
(define-fun lacks ((word (_ BitVec 64)) (number (_ BitVec 16)) (first (_ BitVec 16)) (count (_ BitVec 16))) Bool
  (distinct (bvand word (changed number first count)) (changed number first count)))

(declare-const a (_ BitVec 64))
(declare-const b (_ BitVec 64))
(declare-const c (_ BitVec 64))
(declare-const d (_ BitVec 64))
(declare-const first (_ BitVec 16))
(declare-const count (_ BitVec 16))
(declare-const page (_ BitVec 16))
(declare-const i (_ BitVec 16))
(assert (bvule count #x003f))

; theorem the-changed-bits-are-the-run
(push)
(assert (bvult page #x0100))
(check-sat)
(assert (not (= (is-bit (changed (index page) first count) (bvurem page #x0040)) (is-in page first count))))
(check-sat)
(pop)

; theorem any-is-a-page-of-the-run
(push)
(assert true)
(check-sat)
(assert (not (= (contains-any a b c d first count) (or (has a #x0000 first count) (has b #x0001 first count) (has c #x0002 first count) (has d #x0003 first count)))))
(check-sat)
(pop)

; theorem all-lacks-no-page-of-the-run
(push)
(assert true)
(check-sat)
(assert (not (= (contains-all a b c d first count) (and (in-pool first count) (not (or (lacks a #x0000 first count) (lacks b #x0001 first count) (lacks c #x0002 first count) (lacks d #x0003 first count)))))))
(check-sat)
(pop)

; theorem a-run-length-counts-members
(push)
(assert (and (is-run-length a first count) (bvult i count)))
(check-sat)
(assert (not (and (bvule (bvadd (bvurem first #x0040) count) #x0040) (is-bit a (bvadd (bvurem first #x0040) i)) (or (= count #x003f) (= (bvurem (bvadd first count) #x0040) #x0000) (not (is-bit a (bvadd (bvurem first #x0040) count)))))))
(check-sat)
(pop)
