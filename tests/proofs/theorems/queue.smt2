; The indices of a one-way queue: services/interfaces/src/queue.rs.
; Indices count freely and wrap at 2^32. The depth is a power of two from 2 to 2^15.

(define-fun least ((a (_ BitVec 32)) (b (_ BitVec 32))) (_ BitVec 32) (ite (bvult a b) a b))

; `Sender::used` and `Sender::room`.
(define-fun used ((head (_ BitVec 32)) (tail (_ BitVec 32)) (depth (_ BitVec 32))) (_ BitVec 32)
  (least (bvsub head tail) depth))
(define-fun room ((head (_ BitVec 32)) (tail (_ BitVec 32)) (depth (_ BitVec 32))) (_ BitVec 32)
  (bvsub depth (used head tail depth)))

; The slot of an index, in `push`, `push_all`, `pop` and `pop_each`.
(define-fun slot ((index (_ BitVec 32)) (depth (_ BitVec 32))) (_ BitVec 32)
  (bvand index (bvsub depth #x00000001)))

; The messages that `push_all` and `pop_each` move at once: up to a limit, and to the last slot.
(define-fun run ((index (_ BitVec 32)) (limit (_ BitVec 32)) (depth (_ BitVec 32))) (_ BitVec 32)
  (least (bvsub limit index) (bvsub depth (slot index depth))))

; `has_crossed`.
(define-fun has-crossed ((old (_ BitVec 32)) (new (_ BitVec 32)) (event (_ BitVec 32))) Bool
  (bvult (bvsub new event) (bvsub new old)))

; `Receiver::half`, and what `find_messages` does with the messages that the producer claims:
; nothing, an error that skips all of them, or the limit up to which it pops.
(define-fun half ((depth (_ BitVec 32))) (_ BitVec 32)
  (ite (= (bvlshr depth #x00000001) #x00000000) #x00000001 (bvlshr depth #x00000001)))
(define-fun waiting ((head (_ BitVec 32)) (tail (_ BitVec 32))) (_ BitVec 32) (bvsub head tail))
(define-fun is-lie ((head (_ BitVec 32)) (tail (_ BitVec 32)) (depth (_ BitVec 32))) Bool
  (bvugt (waiting head tail) depth))
(define-fun limit ((head (_ BitVec 32)) (tail (_ BitVec 32)) (depth (_ BitVec 32))) (_ BitVec 32)
  (bvadd tail (least (waiting head tail) (half depth))))

; What each end writes before it sleeps: `request_wake` and `find_room`.
(define-fun message-event ((tail (_ BitVec 32))) (_ BitVec 32) (bvadd tail #x00000001))
(define-fun space-event ((head (_ BitVec 32)) (depth (_ BitVec 32))) (_ BitVec 32)
  (bvadd (bvsub head depth) #x00000001))

; `producer_pages`, in bytes, and the offset of a slot.
(define-fun producer-bytes ((size (_ BitVec 64)) (depth (_ BitVec 64))) (_ BitVec 64)
  (bvmul (bvudiv (bvadd (bvadd #x0000000000000040 (bvmul size depth)) #x0000000000000fff) #x0000000000001000)
         #x0000000000001000))
(define-fun offset ((slot (_ BitVec 64)) (size (_ BitVec 64))) (_ BitVec 64)
  (bvadd #x0000000000000040 (bvmul slot size)))

(declare-const head (_ BitVec 32))
(declare-const tail (_ BitVec 32))
(declare-const old (_ BitVec 32))
(declare-const new (_ BitVec 32))
(declare-const event (_ BitVec 32))
(declare-const i (_ BitVec 32))
(declare-const j (_ BitVec 32))
(declare-const n (_ BitVec 32))
(declare-const size (_ BitVec 64))
(declare-const depth (_ BitVec 32))
(assert (and (bvuge depth #x00000002) (bvule depth #x00008000)
             (= (bvand depth (bvsub depth #x00000001)) #x00000000)))

; theorem room-never-exceeds-the-depth
(push)
(assert true)
(check-sat)
(assert (not (bvule (room head tail depth) depth)))
(check-sat)
(pop)

; theorem an-honest-consumer-gets-its-room
(push)
(assert (bvule (bvsub head tail) depth))
(check-sat)
(assert (not (= (bvadd (room head tail depth) (bvsub head tail)) depth)))
(check-sat)
(pop)

; theorem no-unread-message-is-overwritten
(push)
(assert (and (bvule (bvsub head tail) depth) (bvult i (room head tail depth)) (bvult j (bvsub head tail))))
(check-sat)
(assert (not (distinct (slot (bvadd head i) depth) (slot (bvadd tail j) depth))))
(check-sat)
(pop)

; theorem a-message-is-found-where-it-was-put
(push)
(assert true)
(check-sat)
(assert (not (and (bvult (slot i depth) depth) (=> (= (bvand (bvsub i j) (bvsub depth #x00000001)) #x00000000) (= (slot i depth) (slot j depth))))))
(check-sat)
(pop)

; theorem crossing-is-membership
(push)
(assert true)
(check-sat)
(assert (not (= (has-crossed old new event) (and (distinct event old) (bvule (bvsub event old) (bvsub new old))))))
(check-sat)
(pop)

; theorem a-sleeping-receiver-is-notified
(push)
(assert (and (bvult (bvsub tail old) (bvsub new old)) (bvule (bvsub new old) depth)))
(check-sat)
(assert (not (has-crossed old new (message-event tail))))
(check-sat)
(pop)

; theorem a-sleeping-sender-is-notified
(push)
(assert (and (= (bvsub head old) depth) (distinct n #x00000000) (bvule n depth)))
(check-sat)
(assert (not (has-crossed old (bvadd old n) (space-event head depth))))
(check-sat)
(pop)

; theorem one-claim-is-bounded-work
(push)
(assert (not (is-lie head tail depth)))
(check-sat)
(assert (not (and (bvule (bvsub (limit head tail depth) tail) (waiting head tail)) (bvule (bvsub (limit head tail depth) tail) (half depth)) (bvule (half depth) depth) (=> (distinct head tail) (distinct (limit head tail depth) tail)))))
(check-sat)
(pop)

; theorem an-honest-producer-is-believed
(push)
(assert (bvule (bvsub head tail) depth))
(check-sat)
(assert (not (not (is-lie head tail depth))))
(check-sat)
(pop)

; theorem a-run-stays-in-the-queues-pages
(push)
(assert (or (= size #x0000000000000008) (= size #x0000000000000010) (= size #x0000000000000018)
            (= size #x0000000000000080) (= size #x0000000000000100)))
(check-sat)
(assert (not (and (bvule (bvadd (slot i depth) (run i j depth)) depth) (bvule (offset ((_ zero_extend 32) (bvadd (slot i depth) (run i j depth))) size) (producer-bytes size ((_ zero_extend 32) depth))))))
(check-sat)
(pop)
