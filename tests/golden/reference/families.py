"""Writes the models and reference values of tests/golden/data/families: random weights, one folder a
model family, RoPE type, bias or file layout, with logits, log-probabilities and greedy tokens computed
by Hugging Face transformers (5.17, PyTorch 2.11) in float32. Run once, by hand:

    python3 families.py FOLDER
"""
import os, json, torch, sys
from safetensors.torch import save_file
import transformers
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, Phi3Config, AutoModelForCausalLM
print(transformers.__version__, torch.__version__)
out = sys.argv[1]
common = dict(vocab_size=320, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0, rms_norm_eps=1e-6)
def rope(**k): return k
specs = {
 'llama-linear': lambda: LlamaConfig(**common, rope_parameters=rope(rope_type='linear', factor=4.0, rope_theta=10000.0)),
 'llama-yarn': lambda: LlamaConfig(**common, rope_parameters=rope(rope_type='yarn', factor=4.0, rope_theta=10000.0, original_max_position_embeddings=128)),
 'llama-yarn-tuned': lambda: LlamaConfig(**common, rope_parameters=rope(rope_type='yarn', factor=8.0, rope_theta=50000.0, original_max_position_embeddings=64, beta_fast=16.0, beta_slow=2.0, attention_factor=1.25)),
 'llama-mqa-bias': lambda: LlamaConfig(**{**common, 'num_key_value_heads':1}, head_dim=24, attention_bias=True, mlp_bias=True, rope_parameters=rope(rope_type='default', rope_theta=10000.0)),
 'mistral-full': lambda: MistralConfig(**common, sliding_window=None, rope_parameters=rope(rope_type='default', rope_theta=1e6)),
 'qwen2-window': lambda: Qwen2Config(**common, use_sliding_window=True, sliding_window=24, max_window_layers=1, tie_word_embeddings=False, rope_parameters=rope(rope_type='default', rope_theta=1e6)),
 'qwen3-tied-yarn': lambda: Qwen3Config(**common, head_dim=24, tie_word_embeddings=True, rope_parameters=rope(rope_type='yarn', factor=4.0, rope_theta=1e6, original_max_position_embeddings=128)),
 'phi3': lambda: Phi3Config(**common, sliding_window=None, rope_parameters=rope(rope_type='default', rope_theta=10000.0)),
 'phi3-window': lambda: Phi3Config(**common, sliding_window=24, tie_word_embeddings=False, rope_parameters=rope(rope_type='default', rope_theta=10000.0)),
 'llama-f16-sharded': lambda: LlamaConfig(**common, rope_parameters=rope(rope_type='default', rope_theta=10000.0)),
 'llama-f32': lambda: LlamaConfig(**common, rope_parameters=rope(rope_type='default', rope_theta=10000.0)),
}
for n, (name, make) in enumerate(specs.items()):
    try:
        torch.manual_seed(1000 + n)
        cfg = make()
        m = AutoModelForCausalLM.from_config(cfg, dtype=torch.float32, attn_implementation='eager').eval()
        with torch.no_grad():
            for k, p in m.named_parameters():
                if p.ndim == 1 and 'norm' in k: p.copy_(1 + 0.2*torch.randn_like(p))
                elif p.ndim == 1: p.copy_(0.3*torch.randn_like(p))
                else: p.mul_(0).add_(torch.randn_like(p) * (1.6 / p.shape[-1]**0.5 if 'embed' not in k else 1.0))
                p.copy_(p.to(torch.bfloat16).to(torch.float32))   # every dtype below holds these exactly, or nearly (f16)
            if 'f16' in name:
                for p in m.parameters(): p.copy_(p.to(torch.float16).to(torch.bfloat16).to(torch.float32))
        d = os.path.join(out, name)
        dt = torch.float16 if 'f16' in name else torch.float32 if 'f32' in name else torch.bfloat16
        m.to(dt).save_pretrained(d, **({'max_shard_size':'80KB'} if 'sharded' in name else {}))
        # Read back: casting the object would also round its table of rotation frequencies.
        m = AutoModelForCausalLM.from_pretrained(d, dtype=torch.float32, attn_implementation='eager').eval()
        g, cases = {}, []
        for i, L in enumerate((1, 7, 48, 150)):
            ids = torch.randint(3, 320, (1, L), dtype=torch.int64, generator=torch.Generator().manual_seed(50*n+i))
            with torch.no_grad():
                lg = m(ids).logits[0].float()
                lp = torch.log_softmax(lg.double(), -1)
                tl = lp[torch.arange(L-1), ids[0,1:]].float()
                seq = ids.clone(); gr = []
                for _ in range(24):
                    t = m(seq).logits[0,-1].argmax().item(); gr.append(t)
                    seq = torch.cat([seq, torch.tensor([[t]])], 1)
            g[f'{i}.ids']=ids[0].to(torch.int32).contiguous(); g[f'{i}.last_logits']=lg[-1].contiguous(); g[f'{i}.token_logprobs']=tl.contiguous() if L>1 else torch.zeros(1); g[f'{i}.greedy']=torch.tensor(gr, dtype=torch.int32)
            cases.append({'n_prompt': L, 'n_greedy': 24})
        save_file(g, os.path.join(d, 'golden.safetensors'))
        json.dump({'model': name, 'dtype': 'float32', 'cases': cases}, open(os.path.join(d, 'golden.json'), 'w'))
        print('made', name, sorted(os.listdir(d)), gr[:8])
    except Exception as e:
        print('FAILED', name, type(e), e)
