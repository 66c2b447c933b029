# Broken twins: one edit each of the sources that run the protocol.  SIM_TWIN is true in a run of that twin only;
# the edited copies are built beside the simulator and nowhere else.  Each must be caught by some seed.
#
#   epf_twin(NAME FILE [[text that stands in FILE exactly once]] [[what stands there instead]])

# Data, then release.
epf_twin(recv_flag_relaxed src/cpu/epf_task_dispatch.c
  [[        epf_store_release_sys_u64(
            epf_call_set_word(call, destination]]
  [[        (SIM_TWIN ? epf_store_relaxed_sys_u64 : epf_store_release_sys_u64)(
            epf_call_set_word(call, destination]])
epf_twin(combine_flag_relaxed src/cpu/epf_task_combine.c
  [[    epf_store_release_sys_u64(epf_call_set_word(call, owner, call->set_map.combine_flag, slot),]]
  [[    (SIM_TWIN ? epf_store_relaxed_sys_u64 : epf_store_release_sys_u64)(
        epf_call_set_word(call, owner, call->set_map.combine_flag, slot),]])
epf_twin(posted_relaxed src/api/epf_preprocess.c
  [[        epf_store_release_sys_u64(epf_call_control_word(c, r, c->control_map.posted, c->rank),]]
  [[        (SIM_TWIN ? epf_store_relaxed_sys_u64 : epf_store_release_sys_u64)(
            epf_call_control_word(c, r, c->control_map.posted, c->rank),]])
epf_twin(sourced_relaxed src/api/epf_preprocess.c
  [[        epf_store_release_sys_u64(epf_call_control_word(c, r, c->control_map.sourced, c->rank),]]
  [[        (SIM_TWIN ? epf_store_relaxed_sys_u64 : epf_store_release_sys_u64)(
            epf_call_control_word(c, r, c->control_map.sourced, c->rank),]])
epf_twin(abort_relaxed src/cpu/epf_exec.c
  [[        epf_store_release_sys_u32(abort_word(call, r), (uint32_t)call->rank + 1);]]
  [[        (SIM_TWIN ? epf_store_relaxed_sys_u32 : epf_store_release_sys_u32)(
            abort_word(call, r), (uint32_t)call->rank + 1);]])
epf_twin(local_words_relaxed src/core/epf_counter.h
  [[    return epf_word_low(epf_add_acq_rel_gpu_u64(word, n));]]
  [[    return epf_word_low((SIM_TWIN ? epf_add_relaxed_gpu_u64 : epf_add_acq_rel_gpu_u64)(word, n));]])

# Nobody writes what others still use.
epf_twin(entered_not_awaited src/cpu/epf_task_dispatch.c
  [[        st = epf_worker_wait(worker, &need, destination);]]
  [[        st = SIM_TWIN ? EPF_OK : epf_worker_wait(worker, &need, destination);]])
epf_twin(free_epoch_not_awaited src/core/epf_sched.h
  [[need.at_least = epf_word(p->free_epoch, 0);]]
  [[need.at_least = epf_word(SIM_TWIN ? 0 : p->free_epoch, 0);]])
epf_twin(posted_once src/api/epf_preprocess.c
  [[x.parity = (int32_t)(op->num_preprocess++ & 1u);]]
  [[x.parity = SIM_TWIN ? 0 : (int32_t)(op->num_preprocess++ & 1u);]])
epf_twin(wrap_without_meeting src/api/epf_op.c
  [[    return epf_comm_barrier(op->comm);
}

epf_status epf_op_next_epoch]]
  [[    return SIM_TWIN ? EPF_OK : epf_comm_barrier(op->comm);
}

epf_status epf_op_next_epoch]])
epf_twin(reset_without_meeting src/api/epf_op.c
  [[epf_comm_barrier(op->comm); /* nobody starts before all are clean */]]
  [[SIM_TWIN ? EPF_OK : epf_comm_barrier(op->comm);]])
epf_twin(peers_words_kept src/api/epf_backend_cpu.c
  [[        memset(op->sets[i].window.base[rank], 0, (size_t)op->sets[i].map.recv_weight);]]
  [[        memset(op->sets[i].window.base[rank], 0,
               SIM_TWIN ? 0 : (size_t)op->sets[i].map.recv_weight);]])
epf_twin(local_words_kept src/api/epf_backend_cpu.c
  [[    epf_exec_zero(op->exec);]]
  [[    if (!SIM_TWIN) {
        epf_exec_zero(op->exec);
    }]])

# Nobody reads what is not there yet.
epf_twin(first_row_not_awaited src/cpu/epf_task_dispatch.c
  [[    for (int64_t row = whole.begin; row < whole.end; row++) {]]
  [[    for (int64_t row = whole.begin + (SIM_TWIN ? 1 : 0); row < whole.end; row++) {]])
epf_twin(tile_ready_before_rows src/cpu/epf_task_dispatch.c
  [[    expand_rows(call, &tile);]]
  [[    if (SIM_TWIN) {
        (void)epf_word_add(&exec->tile_ready[index], call->phase.epoch, 1);
        (void)epf_word_add(&exec->expert_ready[tile.expert], call->phase.epoch, 1);
    }
    expand_rows(call, &tile);]])
epf_twin(expert_ready_one_less src/core/epf_sched.h
  [[                                             : (uint32_t)(p->tiles.tile_offset[tile.expert + 1] -]]
  [[                                             : (uint32_t)(p->tiles.tile_offset[tile.expert + 1] -
                                                          (SIM_TWIN ? 1 : 0) -]])
epf_twin(tile_done_one_less src/core/epf_sched.h
  [[    return (uint32_t)p->tiles.num_n_tiles;]]
  [[    return (uint32_t)p->tiles.num_n_tiles - (SIM_TWIN && p->tiles.num_n_tiles > 1 ? 1u : 0u);]])
epf_twin(first_slot_not_awaited src/cpu/epf_task_combine.c
  [[    for (int64_t slot = begin; slot < end && st == EPF_OK; slot++) {]]
  [[    for (int64_t slot = begin + (SIM_TWIN ? 1 : 0); slot < end && st == EPF_OK; slot++) {]])
epf_twin(barrier_one_tile_early src/cpu/epf_task_gemm.c
  [[        if ((int64_t)epf_word_add(&exec->gemm_done, phase->epoch, 1) + 1 ==]]
  [[        if ((int64_t)epf_word_add(&exec->gemm_done, phase->epoch, 1) + 1 +
                (SIM_TWIN && epf_phase_num_tasks(phase, EPF_TASK_GEMM) > 1 ? 1 : 0) ==]])
epf_twin(last_barrier_not_awaited src/core/epf_sched.h
  [[        need.object = EPF_OBJECT_BARRIER;
        need.end = p->num_ranks;]]
  [[        need.object = EPF_OBJECT_BARRIER;
        need.end = p->num_ranks - (SIM_TWIN ? 1 : 0);]])
epf_twin(workers_not_awaited src/cpu/epf_exec.c
  [[    while (exec->num_running > 0) {]]
  [[    while (exec->num_running > (SIM_TWIN ? 1 : 0)) {]])

# Who gives up, dies or stands still is noticed.
epf_twin(abort_not_spread src/cpu/epf_exec.c
  [[        memcpy(fault_of(call, r, call->rank), fault, sizeof *fault);]]
  [[        if (SIM_TWIN && r != call->rank) {
            continue;
        }
        memcpy(fault_of(call, r, call->rank), fault, sizeof *fault);]])
epf_twin(abort_not_watched src/comm/epf_wait.c
  [[    return watch->abort_word != NULL && epf_load_acquire_sys_u32(watch->abort_word) != 0;]]
  [[    return !SIM_TWIN && watch->abort_word != NULL &&
           epf_load_acquire_sys_u32(watch->abort_word) != 0;]])
epf_twin(wrap_not_joined src/api/epf_op.c
  [[EPF_TRY(epf_op_next_epoch(op)); /* where all meet]]
  [[EPF_TRY(SIM_TWIN ? EPF_OK : epf_op_next_epoch(op)); /* where all meet]])
epf_twin(regrow_not_joined src/api/epf_op.c
  [[EPF_TRY(epf_op_reserve_rows(op, set, layout)); /* if it fails]]
  [[EPF_TRY(SIM_TWIN ? EPF_OK : epf_op_reserve_rows(op, set, layout)); /* if it fails]])
epf_twin(other_call_not_noticed src/cpu/epf_exec.c
  [[            if (is_mismatch(exec, call, need, i, fault)) {]]
  [[            if (!SIM_TWIN && is_mismatch(exec, call, need, i, fault)) {]])
epf_twin(deadline_not_kept src/comm/epf_wait.c
  [[        } else if (*waited_ns >= watch->timeout_ns) {]]
  [[        } else if (!SIM_TWIN && *waited_ns >= watch->timeout_ns) {]])
epf_twin(leavers_not_missed src/comm/epf_threads.c
  [[        if (!group->slots[r].arrived && epf_load_relaxed_u32(&group->slots[r].left) != 0) {]]
  [[        if (!SIM_TWIN && !group->slots[r].arrived &&
            epf_load_relaxed_u32(&group->slots[r].left) != 0) {]])
epf_twin(peers_not_looked_at src/comm/epf_wait.c
  [[        } else if (now >= wait->look_ns) {]]
  [[        } else if (!SIM_TWIN && now >= wait->look_ns) {]])
