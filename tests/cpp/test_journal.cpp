#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "core/rows/journal.h"
#include "core/rows/lanes.h"
#include "lanes_of.h"

namespace velora {
namespace {

using testing::LanesOf;
using News = JournalCursor::News;

struct Found {
  News news;
  std::vector<JournalEntry> entries;
};

Found read(JournalCursor& cursor, const Journal& journal) {
  Found found;
  found.news = cursor.read(journal, [&](JournalEntry entry) { found.entries.push_back(entry); });
  return found;
}

/// Lanes that each_lane() names, in that order.
std::vector<std::uint32_t> changed_lanes(JournalCursor& cursor, const Lanes& lanes) {
  std::vector<std::uint32_t> changed;
  cursor.each_lane(
      lanes.journal(), lanes.num_lanes(), [] {},
      [&](std::uint32_t lane) { changed.push_back(lane); });
  return changed;
}

TEST(Journal, UnpackGivesTheEntryThatWasPacked) {
  for (const RowId row : {RowId{0, 0}, RowId{RowId::kMaxLanes - 1, RowId::kMaxSerial}}) {
    for (const bool is_patch : {false, true}) {
      const JournalEntry entry = JournalEntry::unpack(JournalEntry{row, is_patch}.packed());
      EXPECT_EQ(entry.row, row);
      EXPECT_EQ(entry.is_patch, is_patch);
    }
  }
}

TEST(Journal, HasAnEntryForEachRowOfSeveralLanesAndNoneForThoseOfOne) {
  LanesOf three(5, 3);
  JournalCursor cursor;
  EXPECT_EQ(read(cursor, three.lanes.journal()).news, News::kReset) << "it has seen nothing";
  three.push(2);
  three.push(0);
  three.push(2);
  const Found found = read(cursor, three.lanes.journal());
  ASSERT_EQ(found.entries.size(), 3u);
  EXPECT_EQ(found.entries[0].row, (RowId{2, 0}));
  EXPECT_EQ(found.entries[1].row, (RowId{0, 0}));
  EXPECT_EQ(found.entries[2].row, (RowId{2, 1}));
  EXPECT_FALSE(found.entries[2].is_patch);
  EXPECT_TRUE(read(cursor, three.lanes.journal()).entries.empty()) << "each is read once";

  LanesOf one(5, 1);
  one.push_many(0, 9);
  EXPECT_EQ(one.lanes.journal().count(), 0u);
}

TEST(Journal, RowsThatCameTogetherHaveOneEntry) {
  LanesOf of(5, 2);
  JournalCursor cursor;
  read(cursor, of.lanes.journal());
  of.lanes.advance(1, 12);
  of.lanes.advance(0, 0);
  const Found found = read(cursor, of.lanes.journal());
  ASSERT_EQ(found.entries.size(), 1u);
  EXPECT_EQ(found.entries[0].row, (RowId{1, 11}));
}

TEST(Journal, AnEndThatIsMarkedLaterIsAPatchOfItsRow) {
  for (const std::uint32_t num_lanes : {1u, 2u}) {
    LanesOf of(5, num_lanes);
    JournalCursor cursor;
    const std::uint32_t lane = num_lanes - 1;
    of.end_episode(lane);
    of.push_many(lane, 3);
    read(cursor, of.lanes.journal());
    of.end_episode(lane);
    of.end_episode(lane);
    const Found found = read(cursor, of.lanes.journal());
    ASSERT_EQ(found.entries.size(), 1u) << "nothing changes where nothing goes on";
    EXPECT_EQ(found.entries[0].row, (RowId{lane, 2}));
    EXPECT_TRUE(found.entries[0].is_patch);
    EXPECT_EQ(of.view().flags(found.entries[0].row) & kEnds, kTruncated);
  }
}

TEST(Journal, ClearAndRestoreAreResets) {
  LanesOf of(5, 2);
  JournalCursor cursor;
  read(cursor, of.lanes.journal());
  of.push(0);
  of.lanes.clear();
  of.push(1);
  EXPECT_EQ(read(cursor, of.lanes.journal()).news, News::kReset);
  EXPECT_EQ(read(cursor, of.lanes.journal()).news, News::kEntries);
  of.lanes.restore(std::vector<SavedLane>{{0, 1, 0}, {4, 4, 4}});
  of.push(0);
  EXPECT_EQ(read(cursor, of.lanes.journal()).news, News::kReset);
  EXPECT_TRUE(read(cursor, of.lanes.journal()).entries.empty());
}

TEST(Journal, KeepsAtLeastAsManyEntriesAsLanes) {
  for (const std::uint32_t num_lanes : {1u, 63u, 64u, 65u, 1000u, RowId::kMaxLanes}) {
    const LanesOf of(1, num_lanes);
    const std::uint64_t capacity = of.lanes.journal().capacity();
    EXPECT_GE(capacity, num_lanes);
    EXPECT_LE(capacity, 64u + 2 * num_lanes);
  }
}

TEST(JournalCursor, IsOverrunByAsManyEntriesAsTheJournalKeeps) {
  LanesOf of(4, 2);
  const std::uint64_t capacity = of.lanes.journal().capacity();
  JournalCursor cursor;
  read(cursor, of.lanes.journal());
  of.push_many(1, capacity - 1);
  Found found = read(cursor, of.lanes.journal());
  EXPECT_EQ(found.news, News::kEntries);
  EXPECT_EQ(found.entries.size(), capacity - 1);
  for (const std::uint64_t count : {capacity, 5 * capacity + 3}) {
    of.push_many(1, count);
    found = read(cursor, of.lanes.journal());
    EXPECT_EQ(found.news, News::kOverrun);
    EXPECT_TRUE(found.entries.empty());
    of.push(0);
    found = read(cursor, of.lanes.journal());
    EXPECT_EQ(found.news, News::kEntries) << "it goes on after that";
    ASSERT_EQ(found.entries.size(), 1u);
    EXPECT_EQ(found.entries[0].row.lane, 0u);
  }
}

TEST(JournalCursor, EachReadsFromWhereItStands) {
  LanesOf of(4, 3);
  const Journal& journal = of.lanes.journal();
  std::mt19937_64 random(3);
  JournalCursor cursors[4];
  std::vector<std::vector<std::uint64_t>> expected(4);
  for (JournalCursor& cursor : cursors) read(cursor, journal);
  for (int step = 0; step < 5000; ++step) {
    const auto lane = static_cast<std::uint32_t>(random() % 3);
    const std::uint64_t serial = of.view().end(lane);
    of.push(lane);
    for (auto& entries : expected) entries.push_back(JournalEntry{{lane, serial}, false}.packed());
    for (std::size_t i = 0; i < 4; ++i) {
      if (random() % (std::uint64_t{1} << 2 * i) != 0) continue;
      const Found found = read(cursors[i], journal);
      if (expected[i].size() >= journal.capacity()) {
        ASSERT_EQ(found.news, News::kOverrun);
      } else {
        ASSERT_EQ(found.news, News::kEntries);
        std::vector<std::uint64_t> entries;
        for (const JournalEntry entry : found.entries) entries.push_back(entry.packed());
        ASSERT_EQ(entries, expected[i]);
      }
      expected[i].clear();
    }
  }
}

TEST(JournalCursor, OfManyLanesLooksAtThoseThatWerePushedAlone) {
  LanesOf of(2, RowId::kMaxLanes);
  JournalCursor cursor;
  EXPECT_EQ(changed_lanes(cursor, of.lanes).size(), RowId::kMaxLanes) << "it has seen nothing";
  of.push(41234);
  EXPECT_EQ(changed_lanes(cursor, of.lanes), std::vector<std::uint32_t>{41234});
  EXPECT_TRUE(changed_lanes(cursor, of.lanes).empty());
  for (std::uint32_t i = 0; i < 1000; ++i) of.push(i * 65);
  EXPECT_EQ(changed_lanes(cursor, of.lanes).size(), 1000u);
  of.end_episode(65);
  EXPECT_TRUE(changed_lanes(cursor, of.lanes).empty()) << "a patch brings no rows";
  for (std::uint32_t lane = 0; lane < RowId::kMaxLanes; ++lane) of.push(lane);
  EXPECT_EQ(changed_lanes(cursor, of.lanes).size(), RowId::kMaxLanes) << "overrun";
  of.lanes.clear();
  EXPECT_EQ(changed_lanes(cursor, of.lanes).size(), RowId::kMaxLanes) << "reset";
}

TEST(JournalCursor, OfOneLaneLooksAtItEachTime) {
  LanesOf of(2, 1);
  JournalCursor cursor;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(changed_lanes(cursor, of.lanes).size(), 1u);
    of.push(0);
  }
}

TEST(Journal, ReadsTheSameWhereItsMemoryIsCopiedTo) {
  LanesOf of(4, 2);
  of.push_many(1, 3);
  of.push(0);
  const Journal& journal = of.lanes.journal();
  std::vector<std::uint64_t> copy(Journal::nbytes(2) / sizeof(std::uint64_t));
  std::memcpy(copy.data(), static_cast<const void*>(&journal), Journal::nbytes(2));
  const auto& other = *reinterpret_cast<const Journal*>(copy.data());
  ASSERT_EQ(other.count(), 4u);
  for (std::uint64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(other.entry(i).packed(), journal.entry(i).packed());
  }
}

/// A reader in another thread finds the serial that an entry tells of, and in the end all rows.
TEST(Journal, IsReadBesideItsWriter) {
  constexpr std::uint32_t kLanes = 3;
  constexpr std::uint64_t kRows = 200'000;
  std::vector<std::uint64_t> memory(Lanes::nbytes(kLanes) / sizeof(std::uint64_t));
  Lanes lanes(reinterpret_cast<std::byte*>(memory.data()), {kRows, kLanes, 16, 0}, 0);
  const RowLayout layout{std::vector<Field>{}};
  std::atomic<bool> ended = false;
  std::thread writer([&] {
    for (std::uint64_t i = 0; i < kRows; ++i) {
      lanes.commit(static_cast<std::uint32_t>(i * i % kLanes), 0);
    }
    ended = true;
  });
  JournalCursor cursor;
  LaneSizes sizes(kLanes);
  std::uint64_t entries = 0;
  bool was_overrun = false;
  for (bool last = false; !last;) {
    last = ended;
    const News news = cursor.read(lanes.journal(), [&](JournalEntry entry) {
      ++entries;
      auto& pushed = const_cast<std::uint64_t&>(lanes.states()[entry.row.lane].pushed);
      EXPECT_GT(std::atomic_ref(pushed).load(std::memory_order_acquire), entry.row.serial);
    });
    was_overrun = was_overrun || news == News::kOverrun;
    const std::uint64_t before = *sizes.largest();
    EXPECT_GE(lanes.view(nullptr, layout, sizes).fullest(), before);
  }
  writer.join();
  EXPECT_TRUE(was_overrun || entries <= kRows);
  EXPECT_EQ(lanes.view(nullptr, layout, sizes).size(), kRows);
}

}  // namespace
}  // namespace velora
