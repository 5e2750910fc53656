// Of a DeviceStore: changes of rows that are there already.

#include <algorithm>
#include <cstring>
#include <unordered_set>
#include <vector>

#include "core/device/store.h"

namespace velora {

void DeviceStore::end_episode(std::uint32_t lane, void* stream) {
  require_running("end_episodes", stream);
  learn_episodes(stream);
  const LaneState before = lanes_.states()[lane];
  if (before.episode == before.pushed) return;
  make_room(stream);
  staging_.touch(lane);
  if (lanes_.end_episode(lane)) {
    const RowId newest = {lane, before.pushed - 1};
    const std::uint8_t flags = kTruncated | (before.episode == newest.serial ? kFirst : 0);
    flags_.set(view().row_index(newest), std::byte{flags});
    staging_.set(newest, layout_.flags_offset(), &flags, 1);
    lanes_.patch(newest);
  }
  flush_for_graphs(stream);
}

void DeviceStore::update_fields(std::span<const RowId> rows, const RowSource& source,
                                std::span<bool> updated, void* stream) {
  require_running("update", stream);
  const RowsView known = view();
  // One launch writes in no order, so of a row that stands there twice the last one alone is sent.
  std::vector<bool> is_last(rows.size());
  std::unordered_set<std::uint64_t> seen;
  for (std::size_t i = rows.size(); i-- > 0;) {
    updated[i] = known.alive(rows[i]);
    is_last[i] = updated[i] && seen.insert(rows[i].packed()).second;
  }
  flush(stream);  // rows that wait would overwrite what comes before them
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (!is_last[i]) continue;
    std::byte* const row = rows_ + known.row_index(rows[i]) * layout_.pitch();
    for (std::size_t f = 0; f < layout_.fields().size(); ++f) {
      const Field& field = layout_.fields()[f];
      if (source.fields[f] == nullptr) continue;
      write_field(row + field.offset, source.fields[f] + i * field.nbytes, field.nbytes, stream);
    }
    lanes_.patch(rows[i]);
  }
  flush(stream);
}

void DeviceStore::write_field(std::byte* to, const std::byte* from, std::size_t nbytes,
                              void* stream) {
  for (std::size_t done = 0; done < nbytes; done += WritePiece::kMost) {
    make_room(stream);
    staging_.write(to + done, from + done, std::min<std::size_t>(WritePiece::kMost, nbytes - done));
  }
}

}  // namespace velora
